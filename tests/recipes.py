# SPDX-License-Identifier: MIT
"""Commands of documents and recipes, given to the real parsers; recipes run with stubs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from fairseq import options
from fairseq_cli import score
from fairseq_programs import REPOSITORY, USER_DIR
from recipe_stub import STAND_INS

import fairseq_layerdrop
from fairseq_layerdrop import cli

fairseq_layerdrop.register()

SCRIPTS = REPOSITORY / "scripts"
_FAIRSEQ: dict[str, Callable[[], Any]] = {
    "fairseq-train": options.get_training_parser,
    "fairseq-generate": options.get_generation_parser,
    "fairseq-interactive": lambda: options.get_interactive_generation_parser(),
    "fairseq-validate": options.get_validation_parser,
    "fairseq-eval-lm": options.get_eval_lm_parser,
}
_PLAIN: dict[str, Callable[[], Any]] = {
    "fairseq-layerdrop": cli._parser,
    "fairseq-preprocess": options.get_preprocessing_parser,
    "fairseq-score": score.get_parser,
}
PARSED = (*_FAIRSEQ, *_PLAIN)
"""The programs whose parsers are asked."""


def parse(command: Sequence[str]) -> Any:
    """Give a command's arguments to its program's own parser; return what it makes of them.

    Raises:
        SystemExit: if it refuses them.
    """
    program, arguments = command[0], list(command[1:])
    with mock.patch.object(
        sys, "argv", list(command)
    ):  # fairseq reads --user-dir and --task off it
        parser = (_FAIRSEQ | _PLAIN)[program]()
    if program == "fairseq-layerdrop":
        arguments, _ = cli.split(arguments)
    if program in _PLAIN:
        return parser.parse_args(arguments)
    return options.parse_args_and_arch(parser, arguments)


class Bench:
    """A folder in which recipes run with programs that only record how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "served"):
            (folder / name).mkdir(parents=True)
        stub = Path(__file__).with_name("recipe_stub.py").read_text(encoding="utf-8")
        for program in STAND_INS:
            # -S: the standard library is enough, and starts sooner
            (folder / "bin" / program).write_text(f"#!{sys.executable} -S\n{stub}")
            (folder / "bin" / program).chmod(0o755)

    def run(
        self, script: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of ``scripts/`` in the folder."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "RECIPE_TEST": str(self.folder), **environment}
        variables["RECIPE_USER_DIR"] = str(USER_DIR)
        command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )

    def calls(self, program: str = "") -> list[list[str]]:
        """What was called so far, in order; of one program, or of all."""
        lines = (self.folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        return [call for call in map(json.loads, lines) if program in ("", call[0])]
