# SPDX-License-Identifier: MIT
"""Compensate a model for the layers that a plan removes, on its data.

The mathematics is in :mod:`~fairseq_layerdrop.pruning.compensation`.

The gaps are taken from left to right, the encoder's first. What a layer should give comes from the
whole model, what it gives from the model as it is cut and compensated so far. A gap's change stays
only if the loss on held-out sentences falls by it.

Where norms stand behind the sums, the layer before a gap also takes over the last norm of the
layers that go, and the sums before these two norms are what is fitted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from fairseq_layerdrop.evaluation.calibration import Calibration
from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.streams import encoded_once, layers, replaced, see
from fairseq_layerdrop.modules.subnetwork import restricted
from fairseq_layerdrop.pruning.compensation import (
    Change,
    Gap,
    Regression,
    beginnings,
    fit,
    gaps,
)
from fairseq_layerdrop.pruning.plan import PruningPlan


@dataclass(frozen=True)
class Outcome:
    """What became of one gap."""

    gap: Gap
    loss: float
    """With it, bits a token on the held-out sentences."""
    share: float | None = None
    """Its α; none where it was left alone."""
    reason: str = ""
    """Why it was left alone."""

    def __str__(self) -> str:
        done = f"left alone, {self.reason}" if self.reason else f"α = {self.share:g}"
        return f"{self.gap}: {done}; loss {self.loss:.4f}"


@dataclass(frozen=True)
class Compensation:
    """New weights for layers that stay, and what they are worth on the held-out sentences."""

    weights: dict[str, Tensor]
    """By their names in the whole model."""
    outcomes: Sequence[Outcome]
    cut: float
    """The loss of plain pruning, bits a token."""
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def loss(self) -> float:
        """With the new weights, bits a token."""
        return self.outcomes[-1].loss if self.outcomes else self.cut

    def to_json(self) -> dict[str, Any]:
        """What there is to say of it, in plain containers."""
        return {
            "gaps": [
                {**outcome.gap._asdict(), "share": outcome.share, "loss": outcome.loss}
                for outcome in self.outcomes
            ],
            "lines": [*map(str, self.outcomes), *self.notes],
            "loss": {"cut": self.cut, "compensated": self.loss},
        }


class Refit(NamedTuple):
    """What could be done at a gap."""

    weights: dict[str, Tensor]
    """By their names in the whole model; none where nothing can be done."""
    share: float | None
    """Its α."""
    reason: str
    """Why nothing can be done, if so."""


class Compensator:
    """Compensates one model for any plan.

    Args:
        loaded: the model, whole; it is whole again after each call.
        data: the sentences to fit on, and those to judge by.
        progress: wraps the gaps of a plan.

    Raises:
        ValueError: if the model's layers are none that can be compensated.
    """

    def __init__(
        self,
        loaded: Loaded,
        data: Calibration,
        *,
        progress: Callable[[Sequence[Gap]], Iterable[Gap]] = iter,
    ) -> None:
        self.loaded, self.data, self.progress = loaded, data, progress
        self.layers = layers(loaded.model)
        self.names = {id(p): name for name, p in loaded.model.named_parameters()}
        self._found: dict[PruningPlan, Compensation] = {}
        self._encoded: dict[int, tuple[Tensor, Any]] = {}

    def __call__(self, plan: PruningPlan) -> Compensation:
        """Refit what can be refitted; of a plan that it was called for before, the same again.

        Raises:
            ValueError: if the plan removes nothing, or an activation or loss is not a number.
        """
        if plan not in self._found:
            self._found[plan] = self._compensate(plan)
        return self._found[plan]

    def _compensate(self, plan: PruningPlan) -> Compensation:
        if plan.is_whole:
            raise ValueError(
                "compensation is for a plan that removes layers, got one that keeps all"
            )
        weights: dict[str, Tensor] = {}
        cut = loss = self._loss(plan, weights)
        outcomes = []
        for gap in self.progress(gaps(plan)):
            refitted, share, reason = self.refit(plan, gap, weights)
            with_it = self._loss(plan, weights | refitted) if refitted else loss
            if with_it < loss:
                weights, loss = weights | refitted, with_it
                outcomes.append(Outcome(gap, loss, share))
                continue
            reason = reason or f"the loss on held-out sentences does not fall by it ({with_it:.4f})"
            outcomes.append(Outcome(gap, loss, reason=reason))
        notes = [
            f"the first layers of the {stack} go, with no layer before them to make up for them"
            for stack in beginnings(plan)
        ]
        return Compensation(weights, outcomes, cut, notes)

    def refit(self, plan: PruningPlan, gap: Gap, weights: Mapping[str, Tensor]) -> Refit:
        """New weights for the layer before a gap, whatever the loss says of them.

        Args:
            plan: the layers that stay.
            gap: one of its gaps.
            weights: what was refitted before it.

        Raises:
            ValueError: if an activation is not a number.
        """
        reason = self._obstacle(gap)
        if reason:
            return Refit({}, None, reason)
        best = fit(*self._sums(plan, gap, weights))
        if best is None:
            return Refit({}, None, "held-out tokens are best without any change")
        return Refit(self._changed(gap, best.change), best.share, "")

    def _loss(self, plan: PruningPlan, weights: Mapping[str, Tensor]) -> float:
        with self._encoding_once(plan), replaced(self.loaded.model, weights):
            (losses,) = score_losses(self.loaded, self.data.held_out, [plan.kept])
        return losses.loss

    def _encoding_once(self, plan: PruningPlan) -> AbstractContextManager[None]:
        """With a plan that cuts the decoder alone: most of the work is the encoder's then."""
        if plan.decoder and plan.encoder and plan.encoder.is_whole:
            return encoded_once(self.loaded.model, self._encoded)
        return nullcontext()

    def _obstacle(self, gap: Gap) -> str:
        """Why a gap cannot be compensated, if so."""
        one, other = (self.layers[gap.stack][i] for i in (gap.layer, gap.last))
        for number, layer in ((gap.layer, one), (gap.last, other)):
            if getattr(layer, "fc2", None) is None:
                return f"layer {number} has no FFN"
        if id(one.fc2.weight) in self._shared():
            return f"layer {gap.layer} shares its weights"
        return ""

    def _shared(self) -> set[int]:
        """Parameters that several layers have."""
        found = Counter(
            id(stack[i].fc2.weight)
            for stack in self.layers.values()
            for i in range(len(stack))
            if getattr(stack[i], "fc2", None) is not None
        )
        return {parameter for parameter, times in found.items() if times > 1}

    def _sums(
        self, plan: PruningPlan, gap: Gap, weights: Mapping[str, Tensor]
    ) -> Iterator[Regression]:
        """What is missing where a gap's layers have gone, on both sets of sentences."""
        layer, last = (self.layers[gap.stack][i] for i in (gap.layer, gap.last))
        model = self.loaded.model
        for samples in (self.data.fit, self.data.held_out):
            found = Regression(layer.fc2.in_features, layer.fc2.out_features, self.loaded.device)
            for sample in samples:
                with self._encoding_once(plan):
                    wanted = see(self.loaded, sample, gap.stack, last).stream
                    with replaced(model, weights), restricted(model, plan.kept):
                        given = see(self.loaded, sample, gap.stack, layer)
                found.add(given.inputs, wanted - given.stream)
            if not found.is_finite:
                raise ValueError(
                    f"activations must be numbers, got others in the {gap.stack} after layer "
                    f"{gap.layer} or {gap.last}"
                )
            yield found

    def _changed(self, gap: Gap, change: Change) -> dict[str, Tensor]:
        layer, last = (self.layers[gap.stack][i] for i in (gap.layer, gap.last))
        new: list[tuple[nn.Parameter, Tensor]] = []
        for parameter, added in zip((layer.fc2.weight, layer.fc2.bias), change, strict=True):
            new.append((parameter, (parameter.data + added).to(parameter.dtype)))
        if not layer.normalize_before:
            norm, other = layer.final_layer_norm, last.final_layer_norm
            new += [(norm.weight, other.weight.data), (norm.bias, other.bias.data)]
        return {self.names[id(parameter)]: value for parameter, value in new}
