# SPDX-License-Identifier: MIT
"""How an operation tells how far it is: its caller wraps what it walks through."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Progress = Callable[[str], Callable[[Sequence[Any]], Iterable[Any]]]
"""Of what is done, in words: what wraps a sequence of it."""


def silent(what: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """No progress is shown."""
    return iter
