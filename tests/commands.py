# SPDX-License-Identifier: MIT
"""How the command ended, and what is asked of every mistake: one line, exit 2."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    """A command's exit status, and what it said."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]
"""``command("inspect", path)``: runs it in this process (the fixture is in conftest.py)."""


def assert_one_line(done: Done, reason: str) -> None:
    """A mistake of the user's: nothing on stdout, one line that gives the reason on stderr."""
    assert (done.status, done.out) == (2, ""), done.err[-600:]
    assert reason in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1, done.err


def alone(requests: list[dict[str, Any]]) -> list[Any]:
    """What transformers computes of exported models in a process without fairseq."""
    script = Path(__file__).with_name("transformers_alone.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
