# SPDX-License-Identifier: MIT
"""Learned drop rates: Data Driven Pruning (Fan et al. 2019, section 3.3; no code was published).

The paper says: each layer has a rate of its own, a non-linear function of the layer's activation
followed by a softmax, whose mean over the layers is the target; at inference a fixed set of the
layers with the highest scores runs. What it does not say, and how it is read here:

- *the non-linear function*: one number a layer, ``w·tanh(a) + b``, of the mean activation ``a``
  that reaches the layer.
- *which activation*: the rates of a step are needed before the step is computed, so ``a`` is a
  running mean over the steps before.
- *the mean*: the softmax over depth divides the sum of the rates, ``target·depth``, among the
  layers. A share above the highest rate is cut off, and the rest is divided among the others in
  turn, so that the mean is exactly the target.
- *the highest rate*: below 1, so that every layer runs at times; otherwise nothing more could be
  learned about it.
- *gradients through the draw*: a layer's output is ``x + z·d`` with ``d = f(x) − x`` and z drawn 0
  or 1, E[z] = k. Of the loss, ``dL/dk = E[L | z = 1] − E[L | z = 0]``, taken as the mean of its
  slopes at both ends (exact where the loss is quadratic in z): with g the gradient of the output,
  ``g·d / 2k`` where the layer ran, ``g·d / 2(1−k)`` where it did not. The slope at z = 1 alone
  (straight through, Bengio et al. 2013) will not do: training takes it to zero. At z = 0 it needs
  ``f(x)`` of a dropped layer: one of a step's dropped layers, drawn at random, is run forward
  only, and stands for all of them. The value of the forward pass is untouched. Estimators that
  weigh whole losses (REINFORCE) have too high a variance for one draw a step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

HIGHEST_RATE = 0.95


class LearnedRates(nn.Module):
    """The rates of a stack's layers, learned with the model.

    Args:
        depth: the number of layers.
        width: the model's dimension.
        target: the mean rate, at every moment.

    Raises:
        ValueError: if the target is above the highest rate that layers can have.
    """

    activation: Tensor

    def __init__(self, depth: int, width: int, *, target: float) -> None:
        super().__init__()
        if not 0 <= target <= HIGHEST_RATE:
            raise ValueError(
                f"a learned rate must lie in [0, {HIGHEST_RATE}], got a target of {target}"
            )
        self.target = target
        self.weight = nn.Parameter(torch.zeros(depth, width))
        self.bias = nn.Parameter(torch.zeros(depth))
        self.register_buffer("activation", torch.zeros(depth, width))

    def scores(self) -> Tensor:
        """One number a layer: the greater, the more the layer is dropped."""
        return (self.weight * torch.tanh(self.activation)).sum(1) + self.bias

    def rates(self) -> Tensor:
        """The drop rates, in float64; their mean is the target."""
        return share_out(self.scores().double(), self.target * len(self.bias), most=HIGHEST_RATE)

    @torch.no_grad()
    def agree(self) -> None:
        """Average what the processes of a training have seen, so that all draw alike."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.activation)
            self.activation /= torch.distributed.get_world_size()

    @torch.no_grad()
    def observe(self, layer: int, x: Tensor, *, momentum: float = 0.1) -> None:
        """Record what reaches a layer (``T x B x C``), whether it runs or not."""
        mean = x.detach().float().mean(dim=tuple(range(x.dim() - 1))).to(self.activation)
        self.activation[layer].lerp_(mean, momentum)


def rates_of(scores: Sequence[float], *, target: float) -> list[float]:
    """The drop rates of layers with these scores; their mean is the target."""
    total = target * len(scores)
    rates: list[float] = share_out(
        torch.tensor(scores, dtype=torch.float64), total, most=HIGHEST_RATE
    ).tolist()
    return rates


def share_out(scores: Tensor, total: float, *, most: float) -> Tensor:
    """Split ``total`` by the softmax of the scores, with no share above ``most``."""
    shares = torch.zeros_like(scores)
    free = torch.ones_like(scores, dtype=torch.bool)
    rest = total
    for _ in range(len(scores)):
        part = torch.softmax(scores.masked_fill(~free, -torch.inf), 0) * rest
        over = free & (part > most)
        if not over.any():
            return torch.where(free, part, shares)
        shares = torch.where(over, torch.full_like(shares, most), shares)
        free = free & ~over
        rest -= most * int(over.sum())
        if not free.any():
            break
    return shares + 0 * scores  # all at the most: no score changes anything, each has a gradient


class KeepProbabilityGradient(torch.autograd.Function):
    """A layer's output, unchanged, with a gradient for the probability that the layer runs.

    ``weight · g·(f(x) − x)``, where g is the gradient of the output.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, x: Tensor, f_of_x: Tensor, keep: Tensor, weight: float
    ) -> Tensor:
        ctx.save_for_backward(x, f_of_x, keep)
        ctx.weight = weight
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        x, f_of_x, keep = ctx.saved_tensors
        slope = (gradients[0].float() * (f_of_x - x).float()).sum()
        return gradients[0], None, None, (ctx.weight * slope).to(keep), None
