# SPDX-License-Identifier: MIT
"""The real parsers take every documented command and flag; links lead somewhere; examples run.

(The commands inside the recipes: test_recipes.py; those for hydra: test_configs.py.)
"""

import argparse
import functools
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import documents
import pytest
from fairseq import options
from fairseq_programs import LANGUAGES, REPOSITORY, STYLE, USER_DIR
from planted import write_model
from recipes import PARSED, parse
from torch.distributed.run import get_args_parser as torchrun_parser

from fairseq_layerdrop import cli
from fairseq_layerdrop.checkpoint import open_source
from fairseq_layerdrop.modules import depths
from fairseq_layerdrop.pruning.inspection import describe

README = REPOSITORY / "README.md"
MODULES = {"fairseq_cli.train": "fairseq-train", "fairseq_layerdrop.cli": "fairseq-layerdrop"}
COMMANDS = [
    (documents.name(page), words) for page in documents.PAGES for words in documents.commands(page)
]
OF_OTHERS = {
    *("--no-build-isolation", "--write-docs", "--tiny"),  # pip's, our tests', our scripts'
    # CTranslate2's converters'
    *("--unsafe_deserialization", "--source_lang", "--target_lang", "--model", "--output_dir"),
}


class Parsed(Exception):
    """A program's parser has taken its arguments; what follows is not run."""


def parse_in_place(run: Any, arguments: list[str]) -> None:
    """Give arguments to the parser of a program that has it inside."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *given: Any) -> None:
        real(parser, *given)
        raise Parsed

    with (
        mock.patch.object(sys, "argv", ["program", *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        pytest.raises(Parsed),
    ):
        run()


def check_usage(script: str, arguments: list[str]) -> None:
    """A script is there and takes as many words as its head says: ``NAME a|b [WORK [FLAGS]]``."""
    path = REPOSITORY / script
    assert os.access(path, os.X_OK) or path.suffix == ".py", f"{script} cannot be run"
    head = path.read_text(encoding="utf-8")
    usage = re.search(rf"^(?:#   |    ).*?{re.escape(script)}(.*)$", head, re.M)
    if usage is None:
        assert not arguments or "arguments go to" in head, (
            f"the head of {script} does not say what it takes"
        )
        return
    words = re.split(r"  | [<#]", usage[1])[0].split()
    needed = [word for word in words if not word.startswith("[") and not word.endswith("]")]
    assert len(needed) <= len(arguments), f"{script} needs {needed}, got {arguments}"
    assert len(arguments) <= len(words) or "FLAGS" in usage[1] or "..." in usage[1], (
        f"{script} takes only {words}"
    )
    for word, argument in zip(needed, arguments, strict=False):
        assert "|" not in word or argument in word.split("|"), (
            f"{script} takes {word}, got {argument}"
        )


def check(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a documented command to what would read it."""
    program, *arguments = words
    if program == "torchrun":
        run = torchrun_parser().parse_args(arguments)
        parse([MODULES[run.training_script], *run.training_script_args])
    elif program == "fairseq-hydra-train":
        assert page == "docs/recipes.md", "commands for hydra are tested there"
    elif program == "sbatch" or program.endswith(".sh"):
        check_usage(
            *((arguments[0], arguments[1:]) if program == "sbatch" else (program, arguments))
        )
    elif arguments[:1] == ["-m"]:
        monkeypatch.syspath_prepend(REPOSITORY)
        parse_in_place(importlib.import_module(arguments[1]).main, arguments[2:])
    elif program == "python" and "argparse" in (REPOSITORY / arguments[0]).read_text(
        encoding="utf-8"
    ):
        parse_in_place(
            lambda: runpy.run_path(str(REPOSITORY / arguments[0]), run_name="__main__"),
            arguments[1:],
        )
    elif program == "python":
        check_usage(arguments[0], arguments[1:])
    elif program == "fairseq-layerdrop" and len(arguments) == 1:
        assert arguments[0] in cli.VERBS
    elif program != "echo":
        parse(words)


@pytest.mark.parametrize(
    ("page", "words"),
    COMMANDS,
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60],
)
def test_a_documented_command_is_taken_by_its_program(
    page: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert documents.is_known(words[0]), f"{page}: no test knows {words[0]}"
    check(page, words, monkeypatch)


@functools.cache
def known_flags() -> set[str]:
    """The flags of all programs, with all models, tasks and criterions that the documents name."""
    found: set[str] = set(OF_OTHERS)

    def collect(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        found.update(parser._option_string_actions)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb in action.choices.values():
                    collect(verb)
        return parser

    real = argparse.ArgumentParser.parse_known_args

    def parse_known_args(parser: argparse.ArgumentParser, *given: Any) -> Any:
        return real(collect(parser), *given)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_known_args):
        for _, words in COMMANDS:
            if words[0] in PARSED and len(words) > 2:
                parse(words)
        for model in ("transformer_lm", "roberta", "transformer_align", "wav2vec_ctc"):
            parse(["fairseq-train", "DATA", "--arch", model, "--optimizer", "adam", "--store-ema"])
        for task in ("layerdrop_language_modeling", "layerdrop_sentence_prediction"):
            parse(
                [
                    "fairseq-train",
                    "DATA",
                    "--user-dir",
                    str(USER_DIR),
                    "--task",
                    task,
                    "--arch",
                    "roberta",
                ]
            )
        parse(["fairseq-eval-lm", "DATA", "--path", "a"])
    collect(torchrun_parser())
    collect(options.get_training_parser())
    return found


@pytest.mark.parametrize("page", documents.PAGES, ids=documents.name)
def test_a_flag_that_a_page_names_exists(page: Path) -> None:
    assert documents.flags(page) - known_flags() == set()


def test_an_unknown_flag_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        ["fairseq-generate", "DATA", "--path", "small.pt", "--no-such-flag"],
        ["python", "-m", "benchmarks.search", "--no-such-flag"],
        ["torchrun", "--no-such-flag", "-m", "fairseq_cli.train"],
    ):
        with pytest.raises(SystemExit):
            check("README.md", command, monkeypatch)
    for script in (
        ["scripts/multi30k/2_train.sh"],
        ["scripts/multi30k/2_train.sh", "nonsense"],
        ["scripts/setup.sh", "x"],
    ):
        with pytest.raises(AssertionError):
            check("README.md", script, monkeypatch)


@pytest.mark.parametrize("page", documents.PAGES, ids=documents.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for link in documents.links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert not anchor or anchor in documents.anchors(target), (
            f"{link}: there is no such heading"
        )


@pytest.mark.parametrize("page", documents.PAGES, ids=documents.name)
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    named = {
        path
        for span in documents.spans(page)
        for path in re.findall(r"^(?:[\w.-]+/)+\w+\.(?:py|sh)\b", span)
    }
    roots = (REPOSITORY, USER_DIR)
    assert {path for path in named if not any((root / path).exists() for root in roots)} == set()


def test_every_page_is_in_the_index_and_the_index_in_the_readme() -> None:
    index = REPOSITORY / "docs" / "README.md"
    assert {page.name for page in index.parent.glob("*.md")} - {
        *documents.links(index),
        "README.md",
    } == set()
    assert "docs/README.md" in documents.links(README)


def test_the_readme_shows_train_prune_generate_in_three_commands() -> None:
    first = [
        line.split()
        for line in documents.blocks(README, "bash")[0].replace("\\\n", " ").splitlines()
    ]
    assert [words[0] for words in first] == [
        "fairseq-train",
        "fairseq-layerdrop",
        "fairseq-generate",
    ]
    assert first[1][1] == "prune"


def test_the_python_of_the_readme_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = documents.blocks(README, "python")
    write_model(
        data,
        tmp_path / "full.pt",
        *LANGUAGES,
        "--task",
        "translation",
        "--arch",
        "transformer",
        *STYLE,
    )
    (tmp_path / "DATA").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert depths(names["model"]) == {"encoder": 6, "decoder": 3}
    (step,) = describe(open_source("small.pt"))["provenance"]["steps"]
    assert step["plan"]["decoder"]["kept"] == names["found"]["kept"]["decoder"]
    assert (tmp_path / "small.ct2" / "model.bin").is_file()


SHORT = "--max-len-a 0 --max-len-b 3 --cpu"
PROGRAMS = {
    "python": f'{sys.executable} "$@" && sed -i "61,\\$d" runs/quick/text/*',
    "fairseq-layerdrop": f'{sys.executable} -m fairseq_layerdrop.cli "$@"',
    "fairseq-preprocess": f'{sys.executable} -m fairseq_cli.preprocess "$@"',
    "fairseq-train": f'{sys.executable} -m fairseq_cli.train "$@" --max-update 2 --cpu',
    "fairseq-generate": f'{sys.executable} -m fairseq_cli.generate "$@" {SHORT}',
    "fairseq-interactive": f'{sys.executable} -m fairseq_cli.interactive "$@" {SHORT}',
}
"""As installed, but in small: 60 sentences, two updates, translations of three words."""


@pytest.mark.slow
def test_the_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program, line in PROGRAMS.items():
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    page = "".join(documents.blocks(REPOSITORY / "docs" / "quick-start.md", "bash"))
    command = ["bash", "-euo", "pipefail", "-c", page]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in (
        "decoder: kept 0,2,4; removed 1,3,5",
        "parameters: ",
        "Generate test with beam=4: BLEU4 = ",
        "D-0\t",
    ):
        assert line in done.stdout


def test_scoring_answers_a_mistake_in_one_line(tmp_path: Path) -> None:
    script = [
        sys.executable,
        str(REPOSITORY / "scripts/score_checkpoints.py"),
        "data",
        "no.pt",
        "--curve",
        "a",
    ]
    flags = ["--reference", str(tmp_path / "no.txt"), "--rows", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(
        [*script, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no.txt" in done.stderr
