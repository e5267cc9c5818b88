# SPDX-License-Identifier: MIT
"""What a model learned about its layers, read from its checkpoint.

At inference a fixed set runs: the layers with the lowest drop rates (Fan et al. 2019, section 3.3,
Data Driven Pruning). The gate's own parameters do not stay in a pruned file.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.plan import STACKS

Value = TypeVar("Value")

_GATE = re.compile(r"(.+\.)?layerdrop_gate\..+")
_LEARNED = re.compile(r"learned:(\d+)")


def without_gates(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict without what belongs to learned rates."""
    return {key: value for key, value in state.items() if not _GATE.fullmatch(key)}


def drop_scores(state: Mapping[str, Tensor], depths: Mapping[str, int]) -> dict[str, list[float]]:
    """Each layer's score, where rates were learned: the greater, the more it was dropped.

    The formula is that of :mod:`fairseq_layerdrop.modules.learned`; neighbours that share their
    weights have one.
    """
    found = {}
    for stack in STACKS:
        prefix = next((key.removesuffix("bias") for key in state if _is_bias(key, stack)), None)
        if prefix is not None and stack in depths:
            weight, bias, seen = (state[prefix + name] for name in ("weight", "bias", "activation"))
            scores = (weight * torch.tanh(seen)).sum(1) + bias
            found[stack] = scores.repeat_interleave(depths[stack] // len(bias)).tolist()
    return found


def learned_layers(scores: Mapping[str, list[float]], stack: str, spec: str | None) -> str | None:
    """A SPEC with ``learned:N`` replaced by the N layers that were dropped least.

    Raises:
        ValueError: if the model has learned no rates for this stack, or has fewer layers.
    """
    match = _LEARNED.fullmatch(spec.strip()) if isinstance(spec, str) else None
    if match is None:
        return spec
    if stack not in scores:
        raise ValueError(
            f"{stack}: learned:N needs a model trained with --layerdrop-schedule learned, got "
            "another"
        )
    depth = len(scores[stack])
    count = int(match[1])
    if not 1 <= count <= depth:
        raise ValueError(
            f"{stack}: learned takes a number from 1 to the depth, {depth}, got {count}"
        )
    ranked = sorted(range(depth), key=lambda i: (scores[stack][i], i))
    return ",".join(map(str, sorted(ranked[:count])))


def _is_bias(key: str, stack: str) -> bool:
    return key.endswith("layerdrop_gate.bias") and (key.split(".")[0] == stack)
