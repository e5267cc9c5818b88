# SPDX-License-Identifier: MIT
"""How figures look: readable without colour, and the same bytes for the same rows."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from fairseq_layerdrop.reporting.quality import Point

# Seven markers and four lines, cycled together, give 28 pairs that differ without colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
_SETTINGS: Any = {
    "svg.hashsalt": "fairseq-layerdrop",  # otherwise the identifiers in an SVG are random
    "text.parse_math": False,  # a name with two dollar signs is not a formula
}
_LONGEST_NAME = 40
_MOST_INSIDE = 4


@contextmanager
def settings() -> Iterator[None]:
    """A scope with the matplotlib settings that all figures need."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "figures need matplotlib: pip install 'fairseq-layerdrop[report]'"
        ) from None
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(title: str, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its grid of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 + 3.6 * columns, 1 + 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    if title:
        figure.suptitle(textwrap.fill(title, 60 * columns))
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure, grid


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only: there are no half layers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def style(i: int) -> dict[str, Any]:
    """The i-th curve's marker, line and colour."""
    return {"marker": _MARKERS[i % 7], "linestyle": _LINES[i % 4], "color": f"C{i % 10}"}


def draw_curve(axes: Any, i: int, chosen: Sequence[Point], rest: Sequence[Point]) -> Any:
    """Draw points joined by a line, with error bars, and the rest hollow; returns the line."""
    look = style(i)
    hollow = {**look, "linestyle": "none", "markerfacecolor": "none", "alpha": 0.7}
    axes.plot([point.x for point in rest], [point.y for point in rest], **hollow)
    (line,) = axes.plot([point.x for point in chosen], [point.y for point in chosen], **look)
    unsure = [point for point in chosen if point.error]
    if unsure:
        places = [point.x for point in unsure]
        heights = [point.y for point in unsure]
        errors = [point.error for point in unsure]
        axes.errorbar(places, heights, errors, color=look["color"], linestyle="none", capsize=3)
    return line


def legend(figure: Any, handles: Mapping[str, Any]) -> None:
    """Name the curves: in the axes, or beside them where the names would hide the curves."""
    names = [
        name if len(name) <= _LONGEST_NAME else f"{name[:25]}…{name[-14:]}" for name in handles
    ]
    if len(names) <= _MOST_INSIDE and len(figure.axes) == 1:
        figure.axes[0].legend([*handles.values()], names, frameon=False)
    else:
        figure.legend(
            [*handles.values()], names, frameon=False, loc="outside right center", fontsize="small"
        )


def as_png(figure: Any) -> bytes:
    """The figure as PNG."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


def as_svg(figure: Any) -> bytes:
    """The figure as SVG, without the date."""
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
