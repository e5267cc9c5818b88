# SPDX-License-Identifier: MIT
"""A few sentences to fit on, and others to judge the fit by."""

from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.data.data_utils import numpy_seed

from fairseq_layerdrop.evaluation.loading import Batches, Loaded, batched, load_subset

HELD_OUT = 4
"""One sentence of this many is held out."""


@dataclass(frozen=True)
class Calibration:
    """Collated batches of two sets of sentences that have none in common."""

    fit: list[Any]
    held_out: list[Any]
    subset: str
    sentences: tuple[int, int]
    """How many there are of each."""

    def sign(self) -> dict[str, Any]:
        """What a number depends on that was measured with it."""
        return {"subset": self.subset, "sentences": list(self.sentences)}


def calibration(
    loaded: Loaded, *, subset: str | None = None, tokens: int = 30_000, max_tokens: int = 1024
) -> Calibration:
    """Sentences of a subset, chosen at random and always the same; what is too long is passed over.

    Args:
        loaded: the model, whose limits count, and the task.
        subset: the split's name; ``train``, or ``valid`` where the data have no ``train``.
        tokens: about this many are taken, if there are as many.
        max_tokens: of a batch, at most, padding counted.

    Raises:
        ValueError: if there is no such subset, or it has too few sentences to hold some out.
    """
    name = load_subset(loaded, [subset] if subset else ["train", "valid"], purpose="compensate on")
    dataset = loaded.task.dataset(name)
    with numpy_seed(1):  # fairseq's own seed where it evaluates
        ordered = dataset.ordered_indices()
    limit = utils.resolve_max_positions(loaded.task.max_positions(), loaded.model.max_positions())
    fitting, _ = dataset.filter_indices_by_size(ordered, limit)
    places = _draw(dataset, fitting, tokens)
    held_out = set(places[::HELD_OUT])
    parts = [sorted(set(places) - held_out), sorted(held_out)]
    if not all(parts):
        raise ValueError(
            f"compensation takes at least 2 sentences to fit on and to hold out, got {len(places)} "
            f"in {name}"
        )
    fit, judge = (_batches(loaded, dataset, fitting[part], max_tokens) for part in parts)
    return Calibration(fit, judge, name, (len(parts[0]), len(parts[1])))


def _draw(dataset: Any, indices: Any, tokens: int) -> list[int]:
    """Places in ``indices`` of sentences that have about this many tokens together, at random."""
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(1)).tolist()
    total = 0
    for count, place in enumerate(order, start=1):
        total += int(dataset.num_tokens(indices[place]))
        if total >= tokens:
            return order[:count]
    return order


def _batches(loaded: Loaded, dataset: Any, indices: Any, max_tokens: int) -> list[Any]:
    longest = max(int(dataset.num_tokens(index)) for index in indices)
    batches = batched(dataset, indices, max(max_tokens, longest))
    return Batches.collate(loaded, dataset, batches)
