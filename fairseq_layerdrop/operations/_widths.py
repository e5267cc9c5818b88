# SPDX-License-Identifier: MIT
"""What ``prune`` does below the layer: heads, FFN units, sub-layers."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_layerdrop.pruning import widths
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.shape_config import head_dims
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import locate
from fairseq_layerdrop.pruning.widths import Widths


@dataclass(frozen=True)
class WidthChoice:
    """The choice, what it does to a model's weights, and what there is to say of it."""

    widths: Widths | None = None
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = dict
    facts: list[str] = field(default_factory=list)


def choose_widths(
    source: Source,
    plan: PruningPlan,
    *,
    heads_keep: str | None = None,
    ffn_keep: str | None = None,
    sublayers_remove: str | None = None,
    importance: str | os.PathLike[str] | None = None,
) -> WidthChoice:
    """Choose what stays inside the layers that a plan keeps.

    Args:
        source: the full model.
        plan: its layers that stay.
        heads_keep: the heads of each attention that stay: how many, or 0.5 of them.
        ffn_keep: the units of each FFN that stay, likewise.
        sublayers_remove: sub-layers that go, see
            :func:`~fairseq_layerdrop.pruning.widths.parse_sublayers`.
        importance: a file of scores of heads and units; else their magnitude counts.

    Raises:
        ValueError: naming what does not fit.
    """
    if not (heads_keep or ffn_keep or sublayers_remove):
        if importance:
            raise ValueError("importance= goes with heads_keep= or ffn_keep=")
        return WidthChoice()
    dims = head_dims(source.options)
    kept = plan.kept
    left = {}
    for key, tensor in source.weights.items():
        place = locate(key)
        if not place or place.layer in kept.get(place.stack, range(place.layer + 1)):
            left[key] = tensor
    paths = {at.stack: at.path for at in map(locate, left) if at}
    without: frozenset[str] = frozenset()
    if sublayers_remove:
        without = widths.parse_sublayers(sublayers_remove, paths)
    chosen = widths.choose(
        left,
        dims,
        heads=heads_keep,
        ffn=ffn_keep,
        without=without,
        scores=_scores(importance, source.digest) if importance else None,
    )
    before = widths.shapes(left, dims)
    facts = [
        *_kept("heads", heads_keep, chosen.heads, before, columns=(0, 1)),
        *_kept("FFN units", ffn_keep, chosen.units, before, columns=(2,)),
        *([f"sub-layers removed: {', '.join(sorted(chosen.without))}"] if chosen.without else []),
    ]
    return WidthChoice(chosen, lambda weights: widths.narrow(weights, dims, chosen), facts)


def _scores(file: str | os.PathLike[str], source: str) -> dict[str, list[float]]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "scores" not in found:
        advice = "write it by `importance --structure head --structure ffn`"
        raise ValueError(f"importance=: {file} holds no scores of heads and units; {advice}")
    if found.get("checkpoint") != source:
        raise ValueError(
            f"importance=: {file} must be of this checkpoint, {source}, got "
            f"{found.get('checkpoint')}"
        )
    scores: dict[str, list[float]] = found["scores"]
    return scores


def _kept(
    name: str,
    asked: str | None,
    kept: Mapping[str, tuple[int, ...]],
    before: Mapping[str, list[list[int]]],
    *,
    columns: tuple[int, ...],
) -> Iterator[str]:
    """A line on heads or units: what was asked for, and what stays of how many."""
    if not asked:
        return
    layers = [layer for stack in before.values() for layer in stack]
    had = {layer[column] for layer in layers for column in columns} - {0}
    did = {len(indices) for indices in kept.values()}
    yield f"{name}: asked {asked}, kept {_some(did)} of {_some(had)}"


def _some(numbers: set[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted(numbers))
