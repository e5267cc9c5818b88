# SPDX-License-Identifier: MIT
"""Stands in for every program of a recipe: records the call, reads its input, leaves its files.

It is called by the program's name; ``RECIPE_TEST`` names a folder with ``calls.jsonl`` and
``served/``, the downloads, and ``RECIPE_USER_DIR`` the plugin.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

PROGRAM, ARGUMENTS = Path(sys.argv[0]).name, sys.argv[1:]
FOLDER = Path(os.environ.get("RECIPE_TEST", "."))


def option(name: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(name) + 1] if name in ARGUMENTS else ""


def reads(*paths: object) -> None:
    """End as the real program would, if what it is given is not there."""
    for path in map(str, paths):
        if not (os.path.isdir(path) or (os.path.isfile(path) and os.path.getsize(path))):
            sys.exit(f"{PROGRAM} {' '.join(ARGUMENTS)}: {path} is not there, or empty")


def leaves(path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("written\n")


def preprocess() -> None:
    pair = [f".{option('--source-lang')}", f".{option('--target-lang')}"]
    for name in ("--trainpref", "--validpref", "--testpref"):
        for prefix in filter(None, option(name).split(",")):
            reads(*(prefix + side for side in ([""] if "--only-source" in ARGUMENTS else pair)))
    if "--srcdict" in ARGUMENTS:
        reads(option("--srcdict"))
    leaves(Path(option("--destdir"), "dict.txt"))


def train() -> None:
    reads(ARGUMENTS[0], *filter(None, [option("--finetune-from-model")]))
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        leaves(Path(option("--save-dir"), name))
    print('train_inner | {"num_updates": "10", "wps": "1.0"}')  # while it warms up
    print('train_inner | {"num_updates": "30", "wps": "7.5"}')
    print('train | {"train_num_updates": "60", "train_train_wall": "3"}')
    print("done training in 3 seconds")


def generate() -> None:
    reads(ARGUMENTS[0], option("--path"))
    print("T-1\tb\nH-1\t-0.2\tb\nT-0\ta well-known a-b-c\nH-0\t-0.1\ta well-known a-b-c")


def evaluate() -> None:
    reads(ARGUMENTS[0], option("--path"))


def layerdrop() -> None:
    if ARGUMENTS == ["user-dir"]:
        print(os.environ["RECIPE_USER_DIR"])
    if ARGUMENTS[0] in ("prune", "average"):
        reads(ARGUMENTS[1])
        leaves(ARGUMENTS[2])
    if ARGUMENTS[0] in ("sweep", "search", "importance"):
        reads(ARGUMENTS[1], option("--path"))
        leaves(ARGUMENTS[2])
    if ARGUMENTS[0] == "heal":
        reads(ARGUMENTS[1], option("--path"))
        for point in option("--points").split():
            leaves(Path(ARGUMENTS[2], f"{point.removeprefix('even:')}.pt"))
    if ARGUMENTS[0] == "search" and "--json" in ARGUMENTS:
        print('{"winner": "0,2"}')


def score() -> None:
    reads(option("--sys"), option("--ref"))


def curl() -> None:
    name = Path(option("--output")).name.removesuffix(".part")
    shutil.copy(FOLDER / "served" / name, option("--output"))


def git() -> None:
    if "clone" in ARGUMENTS:  # else it is asked for the commit that a row names
        Path(ARGUMENTS[-1], "scripts").mkdir(parents=True)


def perl() -> None:
    if "clean-corpus-n" not in ARGUMENTS[0]:
        copy()
        return
    prefix, *languages, out = ARGUMENTS[3:7]
    for language in languages:
        shutil.copy(f"{prefix}.{language}", f"{out}.{language}")


def python() -> None:
    if ARGUMENTS[0] == "-m" and ARGUMENTS[1].startswith("benchmarks."):
        print("{}")
    if (
        ARGUMENTS[:2] == ["-m", "zipfile"]
        or ARGUMENTS[0] == "-c"
        or ARGUMENTS[0].startswith("scripts/figures/")
    ):
        os.execv(sys.executable, [sys.executable, *ARGUMENTS])
    if re.search("bpe", " ".join(ARGUMENTS[:2])) and "train" not in ARGUMENTS:
        copy()


def copy() -> None:
    sys.stdout.write(sys.stdin.read())


def take() -> None:
    sys.stdin.read()


STAND_INS = {
    "fairseq-preprocess": preprocess,
    "fairseq-train": train,
    "fairseq-generate": generate,
    "fairseq-eval-lm": evaluate,
    "fairseq-validate": evaluate,
    "fairseq-score": score,
    "fairseq-layerdrop": layerdrop,
    "curl": curl,
    "git": git,
    "perl": perl,
    "python": python,
    "subword-nmt": copy,
    "sacremoses": copy,
    "sacrebleu": take,
}

if __name__ == "__main__":
    with (FOLDER / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([PROGRAM, *ARGUMENTS]) + "\n")
    STAND_INS[PROGRAM]()
