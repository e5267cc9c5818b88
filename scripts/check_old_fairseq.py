#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether official fairseq 0.12.2 reads what `prune` writes and translates as today's does.

python scripts/check_old_fairseq.py [--venv FOLDER] DATA CKPT --encoder-keep 0,2,4 --decoder-keep
every:2

Prunes the checkpoint with this package, generates the test set with both fairseqs and compares all
hypotheses. Runs in an environment of this package; makes one of Python 3.8 (--venv, once: some GB)
from the package index.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
OLD = ["numpy==1.23.5", "cython<3", "torch==1.12.1", "torchaudio==0.12.1", "fairseq==0.12.2"]
GENERATE = ["--gen-subset", "test", "--beam", "5", "--batch-size", "32", "--cpu"]
TOLERANCE = 1e-4
"""Of a score: torch's versions add up in different orders."""

Hypotheses = dict[int, tuple[str, float]]


def fail(message: str) -> NoReturn:
    """One line, exit 2."""
    print(f"check_old_fairseq: {message}", file=sys.stderr)
    sys.exit(2)


def run(*command: str | Path, log: Path, what: str) -> str:
    """Run a program; return its stdout, or fail with its last line. All of it is in the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*map(str, command)], cwd=log.parent, env=environment, capture_output=True, text=True
    )
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        fail(f"{what} failed: {lines[-1].strip()}")
    return done.stdout


def python_of(venv: Path, logs: Path) -> Path:
    """The Python of the old environment, which is made if it is not there."""
    python = venv / "bin" / "python"
    if not (venv / "bin" / "fairseq-generate").exists():
        old = shutil.which(os.environ.get("PYTHON38", "python3.8"))
        version = (
            subprocess.run([old, "--version"], capture_output=True, text=True).stdout if old else ""
        )
        if not old or not version.startswith("Python 3.8"):
            fail(
                "needs Python 3.8, for official fairseq 0.12.2; install it, or name it: "
                "PYTHON38=/path/to/python3.8"
            )
        print(f"making {venv} with {', '.join(OLD)}", file=sys.stderr)
        run(old, "-m", "venv", venv, log=logs / "venv.log", what="making the environment")
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        # pip refuses the metadata of fairseq's omegaconf since 24.1.
        run(*pip, "pip<24.1", "setuptools<70", "wheel", log=logs / "pip.log", what="pip")
        for package in OLD:
            run(
                *pip,
                *OLD[: OLD.index(package) + 1],
                log=logs / "pip.log",
                what=f"installing {package} on Python 3.8",
            )
    versions = (
        "import sys, fairseq, torch; print(sys.version.split()[0], torch.__version__, "
        "fairseq.__version__)"
    )
    found = run(
        python, "-c", versions, log=logs / "versions.log", what="importing the old fairseq"
    ).split()
    if not (found[0].startswith("3.8.") and found[2] == "0.12.2"):
        fail(
            f"{venv} must hold Python 3.8 with fairseq 0.12.2, got Python {found[0]} with "
            f"fairseq {found[2]}"
        )
    print("old: Python {}, torch {}, fairseq {}".format(*found), flush=True)
    return python


def hypotheses(output: str) -> Hypotheses:
    """Text and score by sentence, of what fairseq-generate printed."""
    return {
        int(n): (text, float(score))
        for n, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", output, re.M)
    }


def main() -> None:
    """Prune, generate twice, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="binarised data of a translation, with a test set")
    parser.add_argument("checkpoint", help="a fairseq checkpoint (.pt)")
    parser.add_argument(
        "--venv", type=Path, default=REPOSITORY / "runs" / "old-fairseq", help="the old environment"
    )
    parser.add_argument(
        "plan", nargs=argparse.REMAINDER, help="what stays, as the flags of prune; last"
    )
    args = parser.parse_args()
    data, checkpoint = Path(args.data).resolve(), Path(args.checkpoint).resolve()
    with tempfile.TemporaryDirectory() as folder:
        logs, small = Path(folder), Path(folder) / "small.pt"
        old = python_of(args.venv.absolute(), logs)
        prune = [
            sys.executable,
            REPOSITORY / "scripts" / "prune_checkpoint.py",
            checkpoint,
            small,
            *args.plan,
        ]
        print(run(*prune, log=logs / "prune.log", what="prune"), end="")
        flags = [data, "--path", small, *GENERATE]
        # Only today's fairseq loses the last sentences of a test set without this flag; both know
        # it.
        flags += ["--required-batch-size-multiple", "1"]
        generate = ["-m", "fairseq_cli.generate", *flags]
        today, before = (
            hypotheses(
                run(python, *generate, log=logs / "generate.log", what=f"generating with {name}")
            )
            for name, python in (("today's fairseq", Path(sys.executable)), ("fairseq 0.12.2", old))
        )
    if not today or today.keys() != before.keys():
        fail(f"the same sentences must be generated by both, got {len(today)} and {len(before)}")
    others = sorted(n for n, (text, _) in today.items() if before[n][0] != text)
    worst = max(abs(score - before[n][1]) for n, (_, score) in today.items())
    print(
        f"{len(today) - len(others)} of {len(today)} hypotheses are the same; scores differ by "
        f"{worst:.1e} at most"
    )
    if others or worst > TOLERANCE:
        fail(
            "fairseq 0.12.2 generates otherwise, sentences "
            f"{', '.join(map(str, others)) or 'none'}, by {worst:.1e}"
        )


if __name__ == "__main__":
    main()
