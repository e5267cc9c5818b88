# SPDX-License-Identifier: MIT
"""From a number of parameters to the depths that fit it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor

from fairseq_layerdrop.pruning.inspection import is_buffer
from fairseq_layerdrop.pruning.plan import STACKS, LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.stacks import locate

_AMOUNT = re.compile(r"(\d{1,3}(?:,\d{3})+|[\d_]*\.?\d+)\s*([kMB]?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_amount(text: str) -> int:
    """A number of parameters: ``30M``, ``1.2B``, ``800k``, ``30_000_000``."""
    match = _AMOUNT.fullmatch(text.strip())
    amount = float(re.sub("[_,]", "", match[1])) * _UNITS[match[2]] if match else math.inf
    if math.isinf(amount):
        raise ValueError(
            f"a number of parameters is like 30M, 1.2B, 800k or 30000000, got {text!r}"
        )
    return round(amount)


def fit_parameters(
    state: Mapping[str, Tensor],
    depths: Mapping[str, int],
    specs: Mapping[str, str | None],
    *,
    target: int,
    rule: Callable[[str, int], str],
) -> PruningPlan:
    """The largest sub-network of at most ``target`` parameters that a rule makes.

    Stacks that ``specs`` names are as it says. Of the others, one layer goes at a time, always from
    the stack that has the greater share of its layers left (of the decoder, where both have the
    same: its layers cost more).

    Args:
        state: the model's state dict, in today's keys.
        depths: its stacks' depths.
        specs: the layers to keep of the stacks whose depth is not to be chosen.
        target: how many parameters the result may have, counted as ``inspect`` does.
        rule: the SPEC of a stack's layers at a depth: ``lambda stack, n: f"even:{n}"``.

    Raises:
        ValueError: if the smallest sub-network is above the target; it is named.
    """
    named = {stack: spec for stack, spec in specs.items() if spec is not None}
    depth_of = {stack: depth for stack, depth in depths.items() if stack not in named}
    least = {stack: _least(partial(rule, stack), depth) for stack, depth in depth_of.items()}
    count = _counter(state)
    smallest = 0
    for chosen in _shrinking(depth_of, least):
        plan = PruningPlan.from_specs(
            {**named, **{s: rule(s, n) for s, n in chosen.items()}}, dict(depths)
        )
        smallest = count(plan)
        if smallest <= target:
            return plan
    raise ValueError(
        f"the smallest that these layers can be made has {smallest:,} parameters, got a target "
        f"of {target:,}"
    )


def _counter(state: Mapping[str, Tensor]) -> Callable[[PruningPlan], int]:
    """How many parameters a plan leaves, of tensors that are looked at once.

    A tensor stays where any of its places does: outside the layers, or in a layer that is kept.
    """
    found = [(locate(key), tensor) for key, tensor in state.items() if not is_buffer(key)]
    sizes = [(place, tensor.data_ptr(), tensor.numel()) for place, tensor in found]

    def count(plan: PruningPlan) -> int:
        kept = plan.kept
        left = {
            pointer: size
            for place, pointer, size in sizes
            if place is None or place.stack not in kept or place.layer in kept[place.stack]
        }
        return sum(left.values())

    return count


def _shrinking(depths: dict[str, int], least: dict[str, int]) -> Iterator[dict[str, int]]:
    """All depths from the whole stacks down to the least of each."""
    left = dict(depths)
    yield dict(left)
    while shrinkable := [stack for stack in STACKS if stack in left and left[stack] > least[stack]]:
        stack = max(shrinkable, key=lambda s: (left[s] / depths[s], s == "decoder"))
        left[stack] -= 1
        yield dict(left)


def _least(rule: Callable[[int], str], depth: int) -> int:
    """The smallest depth that a rule can make: first and last layer are two."""
    for count in range(1, depth):
        try:
            LayerSelection.parse(rule(count), depth)
        except ValueError:
            continue
        return count
    return depth
