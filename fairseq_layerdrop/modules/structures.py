# SPDX-License-Identifier: MIT
"""Dropping inside a layer: sub-layers, attention heads, blocks of the FFN, single weights.

Each is a group of weights with one Bernoulli draw in a training step; groups may overlap, and
nothing is rescaled (Fan et al. 2019, section 3.1). A dropped sub-layer is not computed. Heads, FFN
blocks and single weights are masked
weights: they save no time, as in the paper.

A sub-layer is a residual block with its norm: where it is dropped, its input passes on. Pre-norm,
``x + f(norm(x))`` becomes ``x``; post-norm, ``norm(x + f(x))`` becomes ``x`` too, not ``norm(x)``,
so that a layer whose sub-layers are all dropped is a dropped layer. The paper does not say which.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairseq_layerdrop.modules.masks import keyed_generator

SUBLAYERS = ("self_attn", "encoder_attn", "ffn")
"""The sub-layers of a layer, in their order; an encoder's has no ``encoder_attn``."""


@dataclass(frozen=True, kw_only=True)
class StructureRates:
    """The rates at which what is inside a layer is dropped.

    Args:
        sublayer: of each sub-layer.
        head: of each head of each attention.
        ffn: of each block of the FFN's inner dimension.
        ffn_blocks: how many blocks there are (2: the paper's Half FFN).
        weight: of each single weight of the attentions' projections and the FFN (DropConnect, Wan
            et al. 2013).

    Raises:
        ValueError: naming every rate that is not a probability.
    """

    sublayer: float = 0.0
    head: float = 0.0
    ffn: float = 0.0
    ffn_blocks: int = 2
    weight: float = 0.0

    def __post_init__(self) -> None:
        rates = {name: getattr(self, name) for name in ("sublayer", "head", "ffn", "weight")}
        wrong = [f"{name} {rate}" for name, rate in rates.items() if not 0 <= rate <= 1]
        wrong += [] if self.ffn_blocks >= 1 else [f"ffn_blocks {self.ffn_blocks}"]
        if wrong:
            raise ValueError(
                "drop rates must lie in [0, 1], and there must be FFN blocks, got "
                f"{', '.join(wrong)}"
            )

    @property
    def drop(self) -> bool:
        """Whether anything inside a layer is ever dropped."""
        return any((self.sublayer, self.head, self.ffn, self.weight))

    def at(self, share: float) -> "StructureRates":
        """These rates in the middle of a warm-up."""
        rates = {
            name: share * getattr(self, name) for name in ("sublayer", "head", "ffn", "weight")
        }
        return replace(self, **rates)


@dataclass(frozen=True)
class LayerStep:
    """What of one layer runs in one training step.

    Args:
        sublayers: those that run, of :data:`SUBLAYERS`.
        heads: for each attention by its name a mask of its heads.
        ffn: a mask of the blocks of the FFN.
        weights: the seed of the masks of single weights, and their rate.
    """

    sublayers: frozenset[str] = frozenset(SUBLAYERS)
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    ffn: Tensor | None = None
    weights: tuple[int, float] | None = None


def draw_inside(
    rates: StructureRates, depth: int, heads: int, key: Sequence[int | str]
) -> tuple[LayerStep, ...]:
    """Draw what runs inside each of ``depth`` layers; each structure has a stream of its own."""

    def kept(structure: str, rate: float, shape: tuple[int, ...]) -> Tensor:
        draws = torch.rand(shape, generator=keyed_generator(*key, structure), dtype=torch.float64)
        return draws >= rate

    sublayers = kept("sublayer", rates.sublayer, (depth, len(SUBLAYERS))).tolist()
    masks = kept("head", rates.head, (depth, 2, heads)).float()
    blocks = kept("ffn", rates.ffn, (depth, rates.ffn_blocks)).float()
    seeds = torch.randint(2**62, (depth,), generator=keyed_generator(*key, "weight")).tolist()
    steps = []
    for i in range(depth):
        step = LayerStep(frozenset(itertools.compress(SUBLAYERS, sublayers[i])))
        if rates.head:
            step = replace(step, heads={"self_attn": masks[i, 0], "encoder_attn": masks[i, 1]})
        if rates.ffn:
            step = replace(step, ffn=blocks[i])
        if rates.weight:
            step = replace(step, weights=(seeds[i], rates.weight))
        steps.append(step)
    return tuple(steps)


def masked_call(
    module: nn.Module,
    *args: Tensor,
    columns: Mapping[str, Tensor] | None = None,
    weights: tuple[int, float] | None = None,
    **kwargs: object,
) -> Any:
    """Call a module with some weights masked; its parameters get the gradients of the rest.

    Masking the columns that read a head or a block is enough, in value and in gradient: what is not
    read has no gradient either. To be called within what activation checkpointing recomputes, or
    the gradients are wrong.

    Args:
        module: an attention, or a linear layer.
        args: its inputs.
        columns: for a parameter's name a mask of equal groups of its columns.
        weights: the seed and the rate of masks of all its matrices' single weights.
        kwargs: its further inputs.
    """
    masked: dict[str, Tensor] = dict(_drop_weights(module, *weights)) if weights else {}
    for name, mask in (columns or {}).items():
        parameter = masked.get(name, module.get_parameter(name))
        size = math.ceil(parameter.shape[1] / len(mask))  # the last block may be smaller
        masked[name] = parameter * mask.to(parameter).repeat_interleave(size)[: parameter.shape[1]]
    return functional_call(module, masked, args, kwargs) if masked else module(*args, **kwargs)


def _drop_weights(module: nn.Module, seed: int, rate: float) -> Iterator[tuple[str, Tensor]]:
    matrices = [item for item in module.named_parameters() if item[1].dim() == 2]
    for number, (name, parameter) in enumerate(matrices):
        generator = torch.Generator(parameter.device).manual_seed(seed + number)
        drawn = torch.rand(parameter.shape, generator=generator, device=parameter.device)
        yield name, parameter * (drawn >= rate)
