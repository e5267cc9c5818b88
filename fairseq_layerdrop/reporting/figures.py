# SPDX-License-Identifier: MIT
"""The figures of a report, each drawn only where the rows have what it needs."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fairseq_layerdrop.reporting.canvas import (
    as_png,
    as_svg,
    draw_curve,
    legend,
    new_figure,
    settings,
    style,
    whole_numbers,
)
from fairseq_layerdrop.reporting.intake import (
    SortedRows,
    by_curve,
    depth_label,
    in_order,
    total_depth,
)
from fairseq_layerdrop.reporting.quality import (
    LOSS,
    Axis,
    Point,
    Quality,
    best_at_each,
    depth_axis,
    pareto_front,
    quality_of,
    total_axis,
)
from fairseq_layerdrop.reporting.rows import Row

Curves = dict[str, tuple[list[Point], list[Point]]]
"""For each name, the points joined by a line, and the rest."""
_CLOSE = 0.75
"""A closer look begins at this share of the best score."""


class Drawing(NamedTuple):
    """A figure as files, and a sentence that says what it shows."""

    name: str
    caption: str
    png: bytes
    svg: bytes


def draw(rows: SortedRows, *, title: str = "") -> list[Drawing]:
    """Every figure that these rows have enough for."""
    with settings():
        found = [_depth(rows, title), _latency(rows, title), _importance(rows, title)]
        found += [_rates(rows, title), _speed(rows, title), _search(rows, title)]
        found.append(_cost(rows, title))
        return [
            Drawing(name, caption, as_png(figure), as_svg(figure))
            for name, caption, figure in filter(None, found)
        ]


_Found = tuple[str, str, Any] | None


def _depth(rows: SortedRows, title: str) -> _Found:
    plans, quality = _with_quality(rows.plans)
    if quality is None:
        return None
    axis = depth_axis(plans)
    curves = _curves_of_depth(axis, quality)
    close = _close(curves, quality)
    figure, panels = _figure_of_depth(title, axis.label, quality, curves, columns=1 + bool(close))
    if quality.from_zero:
        panels[0].set_ylim(bottom=0)
    missing = len(rows.plans) - sum(map(len, axis.curves.values()))
    caption = f"{quality.label} against {axis.label}; hollow: other plans of the same depth."
    if any("seeds" in row for row in plans):
        caption += " Bars: one standard deviation over the seeds of the training."
    if close:
        panels[1].set_ylim(close, panels[0].get_ylim()[1])
        caption += " Right: the same, the best quarter of the scale."
    return "figure", caption + (f" Rows in the table only: {missing}." if missing else ""), figure


def _close(curves: Curves, quality: Quality) -> float:
    """Where the axis of a closer look begins, or 0 if none is needed.

    One is where a curve falls below half of the best: from 0 the others look alike.
    """
    heights = [[point.y for point in chosen] for chosen, _ in curves.values()]
    best = max(max(curve) for curve in heights)
    start = _CLOSE * best
    alike = sum(min(curve) >= start for curve in heights)
    collapsed = any(min(curve) < best / 2 for curve in heights)
    return start if quality.from_zero and alike > 1 and collapsed else 0


def _latency(rows: SortedRows, title: str) -> _Found:
    plans, quality = _with_quality([row for row in rows.plans if "latency_ms" in row])
    if quality is None:
        return None
    curves: Curves = {}
    everything: list[Point] = []
    for name, members in by_curve(plans).items():
        points = [Point(row["latency_ms"], row[quality.key], row) for row in members]
        curves[name] = pareto_front(points, quality)
        everything += points
    figure, (axes,) = _figure(title, "latency (ms)", quality.label, curves)
    _draw_quartiles(axes, curves)
    best, _ = pareto_front(everything, quality)
    _name_depths(axes, best)
    caption = (
        f"{quality.label} against latency. Joined: the Pareto front of each model; hollow: "
        "what it beats; named: the layers of what nothing beats. Bars: quartiles, where measured."
    )
    return "latency", caption, figure


def _name_depths(axes: Any, points: Sequence[Point]) -> None:
    """Label the best choices only; labels of all points would hide each other."""
    for point in points:
        look = {"textcoords": "offset points", "ha": "right", "size": "small"}
        axes.annotate(depth_label(point.row), (point.x, point.y), (-4, 4), **look)


def _importance(rows: SortedRows, title: str) -> _Found:
    if not rows.importance:
        return None
    measures, stacks, names = (
        list(dict.fromkeys(row[key] for row in rows.importance))
        for key in ("measure", "stack", "curve")
    )
    figure, grid = new_figure(title, len(measures), len(stacks))
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, itertools.product(measures, stacks), strict=True):
        measure, stack = panel
        members = [row for row in rows.importance if (row["measure"], row["stack"]) == panel]
        handles |= _importance_panel(axes, members, names)
        axes.set_title(f"{stack}, {measure}", fontsize="medium")
        axes.set_visible(bool(members))
    if len(names) > 1:
        legend(figure, {name: handles[name] for name in names})
    return (
        "importance",
        "Importance of each layer, by measure and stack. Bars: one standard error.",
        figure,
    )


def _importance_panel(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for i, name in enumerate(names):
        members = sorted(
            (row for row in rows if row["curve"] == name), key=lambda row: row["layer"]
        )
        if members:
            aside = 0.5 * ((i + 0.5) / len(names) - 0.5)  # models side by side
            places = [row["layer"] + aside for row in members]
            errors = [abs(row.get("error", float("nan"))) for row in members]
            look = {**style(i), "linestyle": "none", "capsize": 3}
            handles[name] = axes.errorbar(places, [row["value"] for row in members], errors, **look)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xlabel("layer")
    axes.set_ylabel("importance")
    whole_numbers(axes.xaxis)
    return handles


def _rates(rows: SortedRows, title: str) -> _Found:
    plans, quality = _with_quality([row for row in rows.plans if "rate" in row])
    if quality is None or len({row["rate"] for row in plans}) < 2:
        return None
    pruned: dict[str, list[Point]] = {}
    for row in sorted(in_order(plans), key=total_depth, reverse=True):
        pruned.setdefault(f"{depth_label(row)} layers", []).append(
            Point(row["rate"], row[quality.key], row)
        )
    curves = {name: best_at_each(points, quality) for name, points in pruned.items()}
    figure, _ = _figure(title, "LayerDrop rate in training", quality.label, curves)
    return (
        "rates",
        f"{quality.label} against the LayerDrop rate in training, a line for each depth.",
        figure,
    )


def _speed(rows: SortedRows, title: str) -> _Found:
    plans = [
        row
        for row in rows.plans
        if {"rate", "tokens_per_second"} <= row.keys() and quality_of([row]) is None
    ]
    if len({row["rate"] for row in plans}) < 2:
        return None
    curves: Curves = {}
    for name, members in by_curve(sorted(plans, key=lambda row: row["rate"])).items():
        curves[name] = [Point(row["rate"], row["tokens_per_second"], row) for row in members], []
    figure, (axes,) = _figure(title, "LayerDrop rate in training", "tokens/s", curves)
    axes.set_ylim(bottom=0)
    return "speed", "Tokens a second in training against the LayerDrop rate.", figure


def _search(rows: SortedRows, title: str) -> _Found:
    if not rows.trials:
        return None
    axis = total_axis(rows.trials)
    figure, _ = _figure_of_depth(title, axis.label, LOSS, _curves_of_depth(axis, LOSS))
    return "search", "Loss of the candidates of the search. Joined: the best at each depth.", figure


def _cost(rows: SortedRows, title: str) -> _Found:
    families, quality = _with_quality(rows.families)
    if quality is None:
        return None
    curves: Curves = {}
    for row in families:
        points, _ = curves.setdefault(row["curve"], ([], []))
        points.append(Point(row["cost"], row[quality.key], row))
    label = "cost of all trainings together"
    figure, (axes,) = _figure(title, label, f"{quality.label},\nmean of all depths", curves)
    axes.set_xlim(left=0)
    return "cost", f"{quality.label}, the mean of a family's models, against its {label}.", figure


def _with_quality(rows: Iterable[Row]) -> tuple[list[Row], Quality | None]:
    """The rows that have the quality shown: two different scores cannot share an axis."""
    rows = list(rows)
    quality = quality_of(rows)
    return [row for row in rows if quality and quality.key in row], quality


def _curves_of_depth(axis: Axis, quality: Quality) -> Curves:
    curves: Curves = {}
    for name, members in axis.curves.items():
        points = [_point(x, row, quality) for x, row in members]
        curves[name] = best_at_each(points, quality)
    return curves


def _point(x: float, row: Row, quality: Quality) -> Point:
    return Point(x, row[quality.key], row, row.get("spread", {}).get(quality.key, 0.0))


def _figure(
    title: str, xlabel: str, ylabel: str, curves: Curves, *, columns: int = 1
) -> tuple[Any, list[Any]]:
    """A figure with the same curves in each of its panels, and these."""
    figure, grid = new_figure(title, columns=columns)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for i, (name, points) in enumerate(curves.items()):
            handles[name] = draw_curve(axes, i, *points)
        axes.set_xlabel(xlabel)
    grid.flat[0].set_ylabel(ylabel)
    legend(figure, handles)
    return figure, list(grid.flat)


def _figure_of_depth(
    title: str, label: str, quality: Quality, curves: Curves, *, columns: int = 1
) -> tuple[Any, list[Any]]:
    figure, panels = _figure(title, label, quality.label, curves, columns=columns)
    for axes in panels:
        axes.invert_xaxis()  # pruning goes to the right
        whole_numbers(axes.xaxis)
    return figure, panels


def _draw_quartiles(axes: Any, curves: Curves) -> None:
    for i, (front, rest) in enumerate(curves.values()):
        for point in (*front, *rest):
            ends = point.row.get("latency_ms_quartiles", [])
            axes.plot(ends, [point.y] * len(ends), color=style(i)["color"], linewidth=0.8)
