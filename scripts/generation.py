# SPDX-License-Identifier: MIT
"""Generate with a checkpoint as a user would: by stock ``fairseq-generate``."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_HYPOTHESIS = re.compile(r"^H-(\d+)\t\S+\t(.*)$", re.MULTILINE)
_SPEED = re.compile(r"\(([\d.]+) sentences/s, ([\d.]+) tokens/s\)")


@dataclass(frozen=True)
class Generation:
    """What ``fairseq-generate`` said: hypotheses in the order of the data, and its own speed."""

    hypotheses: list[str]
    sentences_per_second: float
    tokens_per_second: float


def run_generate(command: Sequence[str]) -> Generation:
    """Run ``fairseq-generate`` with these arguments.

    Raises:
        ValueError: if it fails, with the last line that it printed.
    """
    done = subprocess.run(
        ["fairseq-generate", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"fairseq-generate failed: {last}")
    return parse_generate(done.stdout, done.stderr)


def parse_generate(output: str, log: str) -> Generation:
    """Read the hypotheses (best first) and the speed off the program's two streams."""
    best: dict[int, str] = {}
    for number, text in _HYPOTHESIS.findall(output):
        best.setdefault(int(number), text)
    speed = _SPEED.search(log)
    if not best or not speed:
        raise ValueError("fairseq-generate printed no hypothesis; is the subset empty?")
    return Generation([best[i] for i in sorted(best)], float(speed[1]), float(speed[2]))
