# SPDX-License-Identifier: MIT
"""Cases of a test that take one path: some of them say whether it is open."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], *always: Any) -> list[Any]:
    """The values as parameters of a test: those of ``always`` as they are, the others slow.

    A value that is a tuple is several parameters.
    """
    values = list(values)
    assert all(value in values for value in always), "no such case"
    marked = []
    for value in values:
        parameters = value if isinstance(value, tuple) else (value,)
        marks = [] if value in always else [pytest.mark.slow]
        marked.append(pytest.param(*parameters, marks=marks))
    return marked
