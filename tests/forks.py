# SPDX-License-Identifier: MIT
"""Our command in a process of its own, which has everything imported: to be killed, or held back.

A server of one thread forks it, not the process of the tests: what another thread had locked there
would stay locked in the fork, which would wait for ever.
"""

import ctypes
import functools
import multiprocessing
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from hang import end_if_it_hangs

from fairseq_layerdrop import cli

_IMPORTED = (
    *("operations.average", "operations.prune", "operations.search", "operations.zoo"),
    *("evaluation.preflight", "evaluation.sweep"),
)
"""What the verbs import when they run."""


@functools.cache
def server() -> multiprocessing.context.ForkServerContext:
    """The server, once it has imported what the verbs import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"fairseq_layerdrop.{module}" for module in _IMPORTED])
    first = context.Process()  # it does nothing, but ends only once the server is there
    first.start()
    first.join()
    return context


def start(
    arguments: Sequence[object],
    *,
    log: str | Path = os.devnull,
    prepare: Callable[[], object] | None = None,
) -> ForkServerProcess:
    """Start the command, after ``prepare()``; what it says on stderr goes to ``log``."""
    words = [str(argument) for argument in arguments]
    child = server().Process(target=_run, args=(words, str(log), prepare))
    child.start()
    return child


def _run(arguments: list[str], log: str, prepare: Callable[[], object] | None) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    end_if_it_hangs()
    if prepare:
        prepare()
    sys.exit(cli.main(arguments))


# What it may be held back from, as functions that another process can be told of


def no_larger_than(size: int) -> Callable[[], object]:
    """Python ignores SIGXFSZ: writing more bytes to a file fails as it does on a full disk."""
    return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def killed_beyond(size: int) -> Callable[[], object]:
    """A process that writes more bytes to a file is killed."""
    return functools.partial(_killed_beyond, size)


def _killed_beyond(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without_privileges() -> None:
    """What the superuser may beyond others is given up, so that permissions hold."""
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    assert ctypes.CDLL(None).capset(header, nothing) == 0
