# SPDX-License-Identifier: MIT
"""One training by ``fairseq-train`` in a process of its own, which goes on where it was killed."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_UPDATES = re.compile(r'"num_updates": "(\d+)"')


def train(folder: Path, arguments: Sequence[str], *, progress: Callable[[int], None]) -> float:
    """Train until the end; return the seconds that it took this time.

    Args:
        folder: of the checkpoints and of ``train.log``; what is there of the same training goes on.
        arguments: of ``fairseq-train``, but for the folder.
        progress: told the number of updates from time to time.

    Raises:
        ValueError: if the folder is of another training, or this one fails, naming the log.
    """
    check_same(folder / "arguments.json", list(arguments))
    log, start, last = folder / "train.log", time.perf_counter(), ""
    command = [sys.executable, "-m", "fairseq_cli.train", *arguments, "--save-dir", str(folder)]
    with (
        log.open("a", buffering=1, encoding="utf-8") as file,  # to be followed
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            last = line.strip() or last
            if found := _UPDATES.search(line):
                progress(int(found[1]))
    if process.returncode or not (folder / "checkpoint_best.pt").exists():
        raise ValueError(f"fairseq-train failed, see {log}: {last}")
    return time.perf_counter() - start


def check_same(file: Path, options: Any) -> None:
    """Note in a file what a training is of, or compare with what is noted.

    Raises:
        ValueError: if it is another.
    """
    if not file.exists():
        file.write_text(json.dumps(options, indent=1), encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != options:
        raise ValueError(
            f"{file.parent} is of a training with other options; remove it, or name another OUT"
        )
