# SPDX-License-Identifier: MIT
"""Every command in the documents is taken by the real parsers (those of the recipes: test_recipes.py)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_programs import LANGUAGES, STYLE
from planted import write_model
from recipes import PARSED, parse

from fairseq_layerdrop.evaluation import loading
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.modules import depths

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
USER_DIR = str(REPOSITORY / "fairseq_layerdrop")


def documented_commands() -> list[tuple[str, str]]:
    """The commands in the fenced blocks of the documents, with backslashed line ends joined."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            lines = [re.sub(r"^torchrun .*-m fairseq_cli\.train", "fairseq-train", line) for line in lines]
            found += [(document.name, line) for line in lines if line.startswith(PARSED)]
    return found


def test_the_readme_shows_train_prune_generate_in_three_commands() -> None:
    readme = [line.split()[0:2] for name, line in documented_commands() if name == "README.md"][:3]
    assert [words[0] for words in readme] == ["fairseq-train", "fairseq-layerdrop", "fairseq-generate"]
    assert readme[1][1] == "prune"


@pytest.mark.parametrize(("document", "line"), documented_commands())
def test_a_documented_command_parses(document: str, line: str) -> None:
    parse(shlex.split(line.replace('"$(fairseq-layerdrop user-dir)"', USER_DIR)))


def test_the_python_of_the_readme_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.S)
    write_model(data, tmp_path / "full.pt", *LANGUAGES, "--task", "translation", "--arch", "transformer", *STYLE)
    (tmp_path / "DATA").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    small = loading.load("small.pt", str(data))
    (losses,) = score_losses(small, names["batches"], [{"encoder": range(6), "decoder": range(3)}])
    assert capsys.readouterr().out == f"{losses.loss:.3f} bits a token\n"
    logits, _ = small.model(**names["batches"].samples[0]["net_input"])
    assert torch.allclose(names["logits"], logits, atol=1e-5)
    assert depths(names["loaded"].model) == {"encoder": 6, "decoder": 6}


def test_scoring_answers_a_mistake_in_one_line(tmp_path: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "scripts/score_checkpoints.py"), "data", "no.pt", "--curve", "a"]
    flags = ["--reference", str(tmp_path / "no.txt"), "--rows", str(tmp_path / "rows.jsonl")]
    done = subprocess.run([*script, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no.txt" in done.stderr


def test_an_unknown_flag_in_a_document_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        parse(["fairseq-generate", "DATA", "--path", "small.pt", "--no-such-flag"])
