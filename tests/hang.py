# SPDX-License-Identifier: MIT
"""What to do about a child that hangs: nobody else would say where."""

import faulthandler
import signal

SECONDS = 1500
"""Fewer than ``faulthandler_timeout`` in pyproject.toml, so that the test that waits can tell."""


def end_if_it_hangs() -> None:
    """In a child: print the stack on stderr, and be killed, if it still runs then.

    By a signal: faulthandler's own timer cannot be set in a fork of a process that has set one.
    """
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(SECONDS)
