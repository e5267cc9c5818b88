# SPDX-License-Identifier: MIT
"""How much each layer matters, by three measures; each with a standard error.

- ``leave-one-out``: how much the loss rises (bits a token) without only this layer.
- ``random-subsets``: what it rises by, on average over 20 random sub-networks that lack the layer
  and have half of its stack (Fan et al. 2019, section 5.2 and Figure 5; the paper shows the
  quality, not the rise).
- ``angular``: the mean angle between what comes into the layer and what leaves it, as a share of a
  half turn (Gromov et al. 2024, section 2.2; ShortGPT's Block Influence is 1 minus its cosine). One
  pass.

A stack's other layers, and the other stack, are whole in the first and the last.
"""

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.modules.subnetwork import stacks
from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.reporting.rows import Row

SUBSETS = 20

Progress = Callable[[Sequence[Any]], Iterable[Any]]


def layer_importance(
    subject: Subject, batches: Batches, measure: str, *, seed: int = 1, progress: Progress = iter
) -> list[Row]:
    """A row for each layer: value, standard error, and value over the stack's largest.

    The error is ``None`` where one sentence, or one word, is all that there is.
    """
    rows = list(MEASURES[measure](subject, batches.samples, seed, progress))
    if not rows:
        raise ValueError(f"{measure} needs a stack of two layers or more, got {subject.depths}")
    for row in rows:
        largest = max(abs(r["value"]) for r in rows if r["stack"] == row["stack"])
        row["normalised"] = row["value"] / largest if largest else 0.0
        row["signature"] = subject.sign(
            subject.whole,
            batches,
            measure=measure,
            seed=seed,
            stack=row["stack"],
            layer=row["layer"],
        )
    return [
        {"kind": "importance", "curve": subject.curve, "measure": measure, **row} for row in rows
    ]


def leave_one_out(
    subject: Subject, samples: Sequence[Any], _: int = 0, progress: Progress = iter
) -> Iterator[Row]:
    """How much the loss rises without each layer, and the standard error of that difference."""
    where = [
        (stack, i) for stack, depth in subject.depths.items() if depth > 1 for i in range(depth)
    ]
    plans = [subject.whole, *(_without(subject, stack, i) for stack, i in where)]
    whole, *others = score_losses(
        subject.loaded, samples, [plan.kept for plan in plans], progress=progress
    )
    for (stack, i), losses in zip(where, others, strict=True):
        rises = losses.sums - whole.sums
        error = None
        if len(rises) > 1:
            error = math.sqrt(len(rises) * float(rises.var())) / whole.tokens / math.log(2)
        yield {"stack": stack, "layer": i, "value": losses.loss - whole.loss, "error": error}


def _random_subsets(
    subject: Subject, samples: Sequence[Any], seed: int, progress: Progress
) -> Iterator[Row]:
    drawn = _draw_subsets(subject, random.Random(seed))
    plans = list(dict.fromkeys([subject.whole, *itertools.chain(*drawn.values())]))
    found = score_losses(subject.loaded, samples, [plan.kept for plan in plans], progress=progress)
    losses = dict(zip(plans, found, strict=True))
    for (stack, i), some in drawn.items():
        rises = [losses[plan].loss - losses[subject.whole].loss for plan in some]
        yield {
            "stack": stack,
            "layer": i,
            "value": statistics.fmean(rises),
            "error": statistics.stdev(rises) / math.sqrt(SUBSETS),
        }


def _draw_subsets(
    subject: Subject, draw: random.Random
) -> dict[tuple[str, int], list[PruningPlan]]:
    """For each layer, plans of half of its stack without it."""
    drawn = {}
    for stack, depth in subject.depths.items():
        for i in range(depth if depth > 1 else 0):
            others = [j for j in range(depth) if j != i]
            subsets = [draw.sample(others, depth // 2) for _ in range(SUBSETS)]
            drawn[stack, i] = [_with(subject, stack, kept) for kept in subsets]
    return drawn


@torch.no_grad()
def _angular(subject: Subject, samples: Sequence[Any], _: int, progress: Progress) -> Iterator[Row]:
    angles: dict[tuple[str, int], list[Tensor]] = {}

    def note(place: tuple[str, int], inputs: Any, named: dict[str, Any], output: Any) -> None:
        before, after = inputs[0], output[0] if isinstance(output, tuple) else output  # T x B x C
        cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        angle = torch.arccos(cosine.clamp(-1, 1)) / math.pi
        angles.setdefault(place, []).append(angle[_words(named, angle)].double().cpu())

    hooks = [
        layer.register_forward_hook(
            lambda _, x, n, y, at=(stack, i): note(at, x, n, y), with_kwargs=True
        )
        for stack, modules in stacks(subject.loaded.model).items()
        for module in modules
        for i, layer in enumerate(module.layers)
    ]
    try:
        for sample in progress(samples):
            subject.loaded.criterion(subject.loaded.model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    for (stack, i), parts in sorted(
        angles.items(), key=lambda item: (item[0][0] != "encoder", item[0][1])
    ):
        every = torch.cat(parts)
        yield {
            "stack": stack,
            "layer": i,
            "value": float(every.mean()),
            "error": float(every.std() / len(every) ** 0.5) if len(every) > 1 else None,
        }


def _words(named: dict[str, Any], angle: Tensor) -> Tensor:
    """Which positions (``T x B``) are not padding, by the layer's mask (``B x T``)."""
    for mask in named.values():
        if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == angle.t().shape:
            return ~mask.t()
    return torch.ones_like(angle, dtype=torch.bool)


def _without(subject: Subject, stack: str, layer: int) -> PruningPlan:
    return _with(subject, stack, [i for i in range(subject.depths[stack]) if i != layer])


def _with(subject: Subject, stack: str, kept: Sequence[int]) -> PruningPlan:
    selection = LayerSelection(subject.depths[stack], tuple(kept))
    return PruningPlan.of({**subject.whole.selections, stack: selection})


Measure = Callable[[Subject, Sequence[Any], int, Progress], Iterator[Row]]
MEASURES: dict[str, Measure] = {
    "leave-one-out": leave_one_out,
    "random-subsets": _random_subsets,
    "angular": _angular,
}
