# SPDX-License-Identifier: MIT
"""Every command in the documents and in the recipes is taken by the real parsers."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq import options
from fairseq_programs import WIDTH, batch, build_model

import fairseq_layerdrop
from fairseq_layerdrop import cli

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
USER_DIR = str(REPOSITORY / "fairseq_layerdrop")
PROGRAMS = ("fairseq-layerdrop", "fairseq-train", "fairseq-generate", "fairseq-preprocess", "fairseq-interactive")
RECIPES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "scripts" / "multi30k").glob("*.sh"))


def documented_commands() -> list[tuple[str, str]]:
    """The commands in the fenced blocks of the documents, with backslashed line ends joined."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            lines = [re.sub(r"^torchrun .*-m fairseq_cli\.train", "fairseq-train", line) for line in lines]
            found += [(document.name, line) for line in lines if line.startswith(PROGRAMS)]
    return found


def parse(command: list[str]) -> None:
    """Give a command's arguments to the program's own parser."""
    program, arguments = command[0], command[1:]
    if program == "fairseq-layerdrop":
        cli._parser().parse_args(arguments)
        return
    parsers = {
        "fairseq-train": options.get_training_parser,
        "fairseq-generate": options.get_generation_parser,
        "fairseq-interactive": lambda: options.get_interactive_generation_parser(),
        "fairseq-preprocess": options.get_preprocessing_parser,
    }
    # get_parser reads --user-dir and --task off sys.argv, as in the real program.
    before, sys.argv = sys.argv, command
    try:
        parser = parsers[program]()
    finally:
        sys.argv = before
    if program == "fairseq-preprocess":
        parser.parse_args(arguments)
    else:
        options.parse_args_and_arch(parser, arguments)


@pytest.fixture(autouse=True)
def _registered() -> None:
    fairseq_layerdrop.register()


def test_the_readme_shows_train_prune_generate_in_three_commands() -> None:
    readme = [line.split()[0:2] for name, line in documented_commands() if name == "README.md"][:3]
    assert [words[0] for words in readme] == ["fairseq-train", "fairseq-layerdrop", "fairseq-generate"]
    assert readme[1][1] == "prune"


@pytest.mark.parametrize(("document", "line"), documented_commands())
def test_a_documented_command_parses(document: str, line: str) -> None:
    parse(shlex.split(line.replace('"$(fairseq-layerdrop user-dir)"', USER_DIR)))


def test_the_python_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.S)
    model = build_model("--arch", "layerdrop_transformer", *WIDTH).eval()
    ran: list[int] = []
    for i, layer in enumerate(model.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    exec(block, {"model": model, "sample": batch()})
    assert ran == [0, 2, 4]
    model(**batch()["net_input"])
    assert ran[3:] == [0, 1, 2, 3, 4, 5]


def test_scoring_answers_a_mistake_in_one_line(tmp_path: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "scripts/score_checkpoints.py"), "data", "no.pt", "--curve", "a"]
    flags = ["--reference", str(tmp_path / "no.txt"), "--rows", str(tmp_path / "rows.jsonl")]
    done = subprocess.run([*script, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no.txt" in done.stderr


def test_an_unknown_flag_in_a_document_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        parse(["fairseq-generate", "DATA", "--path", "small.pt", "--no-such-flag"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipes_commands_parse(recipe: str, tmp_path: Path) -> None:
    """Run the script with programs that only write down their arguments, then parse those."""
    calls = tmp_path / "calls.jsonl"
    for program in (*PROGRAMS, "python"):
        recorder = tmp_path / "bin" / program
        recorder.parent.mkdir(exist_ok=True)
        recorder.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"if sys.argv[1:] == ['user-dir']: print({USER_DIR!r})\n"
            f"with open({str(calls)!r}, 'a') as f: f.write(json.dumps([{program!r}, *sys.argv[1:]]) + '\\n')\n"
        )
        recorder.chmod(0o755)
    raw = tmp_path / "raw"
    raw.mkdir()
    for split in ("train", "valid", "test2016", "test2017", "test2017mscoco"):
        for language in ("en", "de"):
            subprocess.run(["gzip", "-c"], input=b"x\n", stdout=(raw / f"{split}.{language}.gz").open("wb"), check=True)
    first = {"1_prepare.sh": str(raw), "2_train.sh": "layerdrop"}.get(Path(recipe).name)
    arguments = [first] if first else []
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["bash", recipe, *arguments, str(tmp_path / "work")], cwd=REPOSITORY, env=environment, check=True)
    commands = [json.loads(line) for line in calls.read_text().splitlines()]
    parsed = [command for command in commands if command[0] != "python"]
    assert parsed
    for command in parsed:
        parse(command)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_short_and_without_logic(recipe: str) -> None:
    lines = (REPOSITORY / recipe).read_text().splitlines()
    assert len(lines) <= 40
    assert not [line for line in lines if re.match(r"\s*(if|case|while|until)\b", line)]
