# SPDX-License-Identifier: MIT
"""Cases of a test that take one path: some of them say whether it is open."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], *always: Any) -> list[Any]:
    """The values as parameters of a test: those of ``always`` as they are, the others slow."""
    values = list(values)
    assert all(value in values for value in always), "no such case"
    return [
        pytest.param(value, marks=[] if value in always else pytest.mark.slow) for value in values
    ]
