# SPDX-License-Identifier: MIT
"""Our command in a forked process, which has everything imported: to be killed, or held back."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hang import end_if_it_hangs

from fairseq_layerdrop import cli


def start(
    arguments: Sequence[object],
    *,
    log: str | Path = os.devnull,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Fork, run the command in the child, and return the child's number here.

    What it says on stderr goes to ``log``. Whatever happens, the child ends there and then: it is a
    copy of the process of the tests, and would go on with them.
    """
    if child := os.fork():
        return child
    status = 1
    try:
        torch.set_num_threads(1)  # threads do not live on in a fork
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        end_if_it_hangs()
        if prepare:
            prepare()
        status = cli.main([str(argument) for argument in arguments])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
