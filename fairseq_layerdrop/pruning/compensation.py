# SPDX-License-Identifier: MIT
"""Make up for removed layers without training: refit fc2 of the layer before a gap.

Layer i stays and i+1..j go. What follows reads the residual stream where layer j used to leave it.
Layer i ends in a linear map, ``y + W h + b``, so the best change of ``W`` and ``b`` is a ridge
regression of what is missing on what enters that map::

    [ΔW, Δb]ᵀ = (AᵀA + αI)⁻¹ AᵀR    A = [h, 1], a row a token    R = stream after j - stream after i

The ridge pulls towards the weights that are there: α = ∞ is plain pruning. ReplaceMe (arXiv
2505.02819) fits a map behind the FFN, D x D, instead; what enters it has fewer units.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.plan import PruningPlan

SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""α, as shares of the mean of AᵀA's diagonal. Below the first nothing changed where we looked."""


class Gap(NamedTuple):
    """Layers of a stack that go behind one that stays, numbered as in the whole model."""

    stack: str
    layer: int
    """The one that stays."""
    last: int
    """The last of those that go."""

    def __str__(self) -> str:
        first = self.layer + 1
        gone = f"layer {first}" if first == self.last else f"layers {first}-{self.last}"
        return f"{self.stack} {gone}"


def gaps(plan: PruningPlan) -> list[Gap]:
    """The gaps behind layers that stay: encoder first, from left to right."""
    found = []
    for stack, selection in plan.selections.items():
        following = (*selection.kept[1:], selection.depth)
        for layer, after in zip(selection.kept, following, strict=True):
            if after > layer + 1:
                found.append(Gap(stack, layer, after - 1))
    return found


def beginnings(plan: PruningPlan) -> list[str]:
    """The stacks whose first layers go: no layer before those can make up for them."""
    return [stack for stack, selection in plan.selections.items() if selection.kept[0] > 0]


class Change(NamedTuple):
    """What is added to a linear map."""

    weight: Tensor
    """D x F, as in ``nn.Linear``."""
    bias: Tensor
    """D."""


class Regression:
    """The sums of a regression, in float64: of the size of the map, however many tokens there are.

    Args:
        features: F, what enters the linear map.
        outputs: D, what leaves it.
        device: where the sums are.
    """

    def __init__(self, features: int, outputs: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.gram = zeros(features + 1, features + 1)
        self.moment = zeros(features + 1, outputs)
        self.square = zeros(1)
        self.tokens = 0

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Add tokens: what enters the map (N x F), and what is missing behind it (N x D)."""
        rows = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1).double()
        missing = missing.double()
        self.gram += rows.T @ rows
        self.moment += rows.T @ missing
        self.square += missing.square().sum()
        self.tokens += len(rows)

    @property
    def is_finite(self) -> bool:
        """Whether all that was added were numbers."""
        return bool(self.gram.isfinite().all() and self.moment.isfinite().all())

    def error(self, change: Change) -> float:
        """The squared error that a change leaves on these tokens, as a share of that without it."""
        added = torch.cat([change.weight.T, change.bias[None]])
        gained = 2 * (added * self.moment).sum() - (added * (self.gram @ added)).sum()
        return float(1 - gained / self.square)

    def solve(self, shares: Sequence[float] = SHARES) -> Iterator[tuple[float, Change]]:
        """The best change for each α.

        One that is too small for the matrix to be positive definite in float64 is left out.
        """
        for share in shares:
            regular = self.gram.clone()
            regular.diagonal().add_(share * self.gram.diagonal().mean())
            factor, failed = torch.linalg.cholesky_ex(regular)
            if not failed:
                solution = torch.cholesky_solve(self.moment, factor)
                yield share, Change(solution[:-1].T.contiguous(), solution[-1])


class Fit(NamedTuple):
    """The change that held-out tokens choose."""

    share: float
    """Its α."""
    error: float
    """What it leaves on the held-out tokens, as a share of the squared error without it."""
    change: Change


def fit(on: Regression, held_out: Regression) -> Fit | None:
    """Choose α by held-out tokens; ``None`` where no change at all (α = ∞) is best."""
    fits = [Fit(share, held_out.error(change), change) for share, change in on.solve()]
    best = min(fits, key=lambda found: found.error, default=None)
    return best if best and best.error < 1 else None
