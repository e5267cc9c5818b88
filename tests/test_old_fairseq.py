# SPDX-License-Identifier: MIT
"""scripts/check_old_fairseq.py: what ``prune`` writes, in official fairseq 0.12.2 on Python 3.8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from fairseq_programs import REPOSITORY

ENVIRONMENT = os.environ.get("OLD_FAIRSEQ")


def check(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    command = [sys.executable, REPOSITORY / "scripts" / "check_old_fairseq.py", *arguments]
    return subprocess.run(
        [*map(str, command)], env=os.environ | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "python", ["/nowhere/python3.8", sys.executable], ids=["none", "another version"]
)
def test_no_python_3_8_is_one_line(python: str, tmp_path: Path) -> None:
    done = check("--venv", tmp_path / "venv", "data", "full.pt", PYTHON38=python)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "needs Python 3.8" in done.stderr and "PYTHON38=" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not ENVIRONMENT,
    reason="OLD_FAIRSEQ names no environment that scripts/check_old_fairseq.py made",
)
@pytest.mark.parametrize(
    "plan", [["--encoder-keep", "0,2,4", "--decoder-keep", "every:2"], []], ids=["half", "all"]
)
def test_official_fairseq_translates_as_today_s(official: Path, plan: list[str]) -> None:
    done = check(
        "--venv", str(ENVIRONMENT), official / "data-bin", official / "checkpoint.pt", *plan
    )
    assert done.returncode == 0, done.stderr
    assert "100 of 100 hypotheses are the same" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not ENVIRONMENT,
    reason="OLD_FAIRSEQ names no environment that scripts/check_old_fairseq.py made",
)
def test_what_the_plugin_trained_is_read_too(data: Path, trained: Run) -> None:
    done = check("--venv", str(ENVIRONMENT), data, trained.last, "--decoder-keep", "0,2")
    assert done.returncode == 0, done.stderr
    assert "11 of 11 hypotheses are the same" in done.stdout
