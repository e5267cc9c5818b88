# SPDX-License-Identifier: MIT
"""From fairseq's names of weights to transformers'; a weight that no rule names is an error."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str | None]]
"""Patterns of whole names and what becomes of them, the first that fits; ``None``: left out."""

NO_WEIGHTS: Rules = (
    (r"(.*\.)?version", None),
    (r"(.*\.)?_float_tensor", None),
)
"""What fairseq keeps in state dictionaries beside weights."""


def rename(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The weights under their new names.

    Raises:
        ValueError: naming the weights that no rule takes.
    """
    patterns = [(re.compile(pattern), new) for pattern, new in (*rules, *NO_WEIGHTS)]
    renamed, unknown = {}, []
    for name, tensor in state.items():
        for pattern, new in patterns:
            if match := pattern.fullmatch(name):
                if new is not None:
                    renamed[match.expand(new)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in unknown)
        raise ValueError(f"transformers has no home for the weights {', '.join([*kinds][:3])}")
    return renamed
