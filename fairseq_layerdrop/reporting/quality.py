# SPDX-License-Identifier: MIT
"""Which score is a model's quality, which direction is better, and the best by it."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from fairseq_layerdrop.reporting.intake import DEPTH_KEYS, by_curve, total_depth
from fairseq_layerdrop.reporting.rows import Row

SIGNIFICANT = 0.05


class Quality(NamedTuple):
    """A score.

    Args:
        key: its name in rows.
        label: its name on an axis.
        sign: +1 if higher is better, -1 if lower.
        from_zero: whether its axis starts at 0.
    """

    key: str
    label: str
    sign: int
    from_zero: bool = False


LOSS = Quality("loss", "loss (bits per token, lower is better)", -1)
QUALITIES = (
    Quality("bleu", "BLEU", 1, from_zero=True),
    Quality("rougeL", "ROUGE-L", 1, from_zero=True),
    Quality("accuracy", "accuracy (%)", 1),
    LOSS,
)


class Point(NamedTuple):
    """A row in a figure, and its error."""

    x: float
    y: float
    row: Row
    error: float = 0.0


class Axis(NamedTuple):
    """The depth on the x axis, and the rows compared by it, by curve."""

    label: str
    curves: dict[str, list[tuple[int, Row]]]


def quality_of(rows: Sequence[Row]) -> Quality | None:
    """The first quality, in the order of ``QUALITIES``, that some row has."""
    for quality in QUALITIES:
        if any(quality.key in row for row in rows):
            return quality
    return None


def depth_axis(rows: Sequence[Row]) -> Axis:
    """The depth that shows these rows best.

    Where all rows have one and the same stack, that stack's. Otherwise the decoder's, among the
    rows with a whole encoder, if some curve has several of them (the paper's Figure 2). Otherwise
    that of both stacks together.
    """
    stacks = {tuple(stack for stack in DEPTH_KEYS if stack in row) for row in rows}
    curves = by_curve(rows)
    if stacks == {DEPTH_KEYS}:
        whole = {name: _with_whole_encoder(members) for name, members in curves.items()}
        if any(len({row["decoder_layers"] for row in members}) > 1 for members in whole.values()):
            return _axis("layers kept in the decoder", whole, itemgetter("decoder_layers"))
    if len(stacks) == 1 and len(*stacks) == 1:
        ((stack,),) = stacks
        name = stack.removesuffix("_layers")
        return _axis(f"layers kept in the {name}", curves, itemgetter(stack))
    return total_axis(rows)


def total_axis(rows: Sequence[Row]) -> Axis:
    """The depth of all stacks together."""
    return _axis("layers kept", by_curve(rows), total_depth)


def best_at_each(points: Sequence[Point], quality: Quality) -> tuple[list[Point], list[Point]]:
    """The best point at each x, in the order of x, and the rest."""
    best: dict[float, Point] = {}
    for point in points:
        if point.x not in best or quality.sign * (point.y - best[point.x].y) > 0:
            best[point.x] = point
    chosen = sorted(best.values(), key=lambda point: point.x)
    return chosen, _without(points, chosen)


def pareto_front(points: Sequence[Point], quality: Quality) -> tuple[list[Point], list[Point]]:
    """The points that no other beats in both cost (x) and quality (y), by cost; and the rest."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -quality.sign * point.y)):
        if not front or quality.sign * (point.y - front[-1].y) > 0:
            front.append(point)
    return front, _without(points, front)


def best_trials(rows: Sequence[Row]) -> list[Row]:
    """The trial with the lowest loss at each depth, of each curve, the deepest first."""
    found: list[Row] = []
    for trials in by_curve(rows).values():
        best, _ = best_at_each([Point(total_depth(row), row["loss"], row) for row in trials], LOSS)
        found += [point.row for point in reversed(best)]
    return found


def smallest_not_worse(rows: Sequence[Row]) -> Row | None:
    """The shallowest tested row of a curve that is not significantly worse than the full model.

    The full model is the deepest row. Among equally shallow rows it is the best.
    """
    full = max(rows, key=total_depth)
    tested = [row for row in rows if "p_holm" in row and row is not full]
    passed = [row for row in tested if row["p_holm"] >= SIGNIFICANT or _is_better(row, full)]
    quality = quality_of(rows)
    return min(passed, key=lambda row: (total_depth(row), -_score(row, quality)), default=None)


def _score(row: Row, quality: Quality | None) -> float:
    return quality.sign * row[quality.key] if quality and quality.key in row else -float("inf")


def _is_better(row: Row, full: Row) -> bool:
    # The tests are two-sided: a sub-network may differ significantly by being better.
    quality = next(
        (quality for quality in QUALITIES if quality.key in row and quality.key in full), None
    )
    return quality is not None and quality.sign * (row[quality.key] - full[quality.key]) > 0


def _with_whole_encoder(rows: Sequence[Row]) -> list[Row]:
    deepest = max(row["encoder_layers"] for row in rows)
    return [row for row in rows if row["encoder_layers"] == deepest]


def _axis(label: str, curves: dict[str, list[Row]], depth: Callable[[Row], int]) -> Axis:
    axis = Axis(label, {})
    for name, rows in curves.items():
        axis.curves[name] = [(depth(row), row) for row in rows]
    return axis


def _without(points: Sequence[Point], chosen: Sequence[Point]) -> list[Point]:
    taken = {id(point) for point in chosen}
    return [point for point in points if id(point) not in taken]
