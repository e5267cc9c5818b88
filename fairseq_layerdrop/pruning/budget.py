# SPDX-License-Identifier: MIT
"""From a number of parameters to the depths that fit it."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from fairseq_layerdrop.pruning.inspection import parameter_sizes
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan
from fairseq_layerdrop.pruning.stacks import locate, prune_state

_AMOUNT = re.compile(r"([\d_,]*\.?\d+)\s*([kMB]?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_amount(text: str) -> int:
    """A number of parameters: ``30M``, ``1.2B``, ``800k``, ``30_000_000``."""
    match = _AMOUNT.fullmatch(text.strip())
    if not match:
        raise ValueError(f"a number of parameters is like 30M, 1.2B, 800k or 30000000, got {text!r}")
    return round(float(re.sub("[_,]", "", match[1])) * _UNITS[match[2]])


def fit_parameters(
    state: Mapping[str, Tensor], depths: Mapping[str, int], specs: Mapping[str, str | None], *, target: int, rule: str
) -> PruningPlan:
    """The largest sub-network of at most ``target`` parameters that a rule makes.

    Stacks that ``specs`` names are as it says. Of the others, one layer goes at a time, always from the stack that
    has the greater share of its layers left (of the decoder, where both have the same: its layers cost more).

    Args:
        state: the model's state dict, in today's keys.
        depths: its stacks' depths.
        specs: the layers to keep of the stacks whose depth is not to be chosen.
        target: how many parameters the result may have, counted as ``inspect`` does.
        rule: the strategy that turns a depth into layers: ``even``, ``spread``, ``first`` or ``last``.

    Raises:
        ValueError: if the smallest sub-network is above the target; it is named.
    """
    named = {stack: spec for stack, spec in specs.items() if spec is not None}
    sizes = parameter_sizes(state)
    rest = sum(n for key, n in sizes.items() if not locate(key))
    smallest = 0
    for chosen in _shrinking({stack: n for stack, n in depths.items() if stack not in named}):
        plan = PruningPlan.from_specs({**named, **{s: f"{rule}:{n}" for s, n in chosen.items()}}, dict(depths))
        smallest = rest + sum(n for key, n in prune_state(sizes, plan).items() if locate(key))
        if smallest <= target:
            return plan
    raise ValueError(
        f"the smallest that these layers can be made has {smallest:,} parameters, got a target of {target:,}"
    )


def _shrinking(depths: dict[str, int]) -> Iterator[dict[str, int]]:
    """All depths from the whole stacks down to one layer each."""
    left = dict(depths)
    yield dict(left)
    while any(n > 1 for n in left.values()):
        stack = max((s for s in STACKS if left.get(s, 0) > 1), key=lambda s: (left[s] / depths[s], s == "decoder"))
        left[stack] -= 1
        yield dict(left)
