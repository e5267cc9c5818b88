# SPDX-License-Identifier: MIT
"""What several verbs print alike."""

from collections.abc import Iterable


def join(indices: Iterable[int]) -> str:
    """Indices as a layer list: ``0,2,4``."""
    return ",".join(map(str, indices))
