# SPDX-License-Identifier: MIT
"""Where a row comes from: the command, the code and the machine that made it."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shlex import join

import fairseq_layerdrop


def origin(command: Sequence[str]) -> dict[str, str]:
    """How a row was made. Not part of its signature: the numbers do not depend on it.

    Args:
        command: the program and its arguments.
    """
    facts = {
        "command": join(command),
        "version": fairseq_layerdrop.__version__,
        "machine": machine(),
    }
    return facts | ({"commit": found} if (found := commit()) else {})


def commit() -> str:
    """The commit of the checkout that this code is in; empty for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return ""
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def machine() -> str:
    """The processor's model."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
