# SPDX-License-Identifier: MIT
"""The surgery itself: a plan and a checkpoint's dictionary in, a smaller dictionary out."""

import re
from collections.abc import Mapping
from typing import TypeVar

from fairseq_layerdrop.pruning.plan import PruningPlan

Value = TypeVar("Value")

# Exact prefixes: `.layers.` occurs elsewhere too (adaptors, experts), and what a plan does not name is copied.
_LAYER_KEY = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)")

# fairseq 0.12.2 wrote a copy of each encoder layer's weights for a fused kernel, never trained and rebuilt at every
# load; later versions stop at the keys. (`self_attn.in_proj_weight` of 2019 is another thing: the real weight.)
STALE_KEY = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def stack_depths(state: Mapping[str, object]) -> dict[str, int]:
    """The depth of each stack in a model's state dict, encoder first: ``{"encoder": 6, "decoder": 6}``.

    Raises:
        ValueError: if there is no stack, or a stack has a gap.
    """
    found: dict[str, set[int]] = {}
    for key in state:
        match = _LAYER_KEY.fullmatch(key)
        if match:
            found.setdefault(match[1], set()).add(int(match[2]))
    if not found:
        raise ValueError("there are no layers in it: no key begins with encoder.layers.N. or decoder.layers.N.")
    for stack, layers in found.items():
        missing = set(range(max(layers) + 1)) - layers
        if missing:
            raise ValueError(f"the {stack} lacks its layers {','.join(map(str, sorted(missing)))}")
    return {stack: len(found[stack]) for stack in ("encoder", "decoder") if stack in found}


def prune_state(state: Mapping[str, Value], plan: PruningPlan) -> dict[str, Value]:
    """A model's state dict restricted to a plan: kept layers renumbered from 0, every other key copied."""
    renumbered = {s: {old: new for new, old in enumerate(sel.kept)} for s, sel in plan.selections.items()}
    small = {}
    for key, value in state.items():
        match = _LAYER_KEY.fullmatch(key)
        if match is None or match[1] not in renumbered:
            small[key] = value
        elif int(match[2]) in renumbered[match[1]]:
            small[f"{match[1]}.layers.{renumbered[match[1]][int(match[2])]}.{match[3]}"] = value
    return small
