# SPDX-License-Identifier: MIT
"""Figures are drawn where the rows have what they need, and are read without colour."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from fairseq_layerdrop.reporting import canvas, figures
from fairseq_layerdrop.reporting.intake import sort_rows

Row = dict[str, Any]
SVG = b'<?xml version="1.0"'


def plan(curve: str, encoder: int, decoder: int, **more: object) -> Row:
    return {"curve": curve, "encoder_layers": encoder, "decoder_layers": decoder, **more}


def trial(decoder: int, loss: float) -> Row:
    return {"kind": "trial", "decoder_layers": decoder, "loss": loss}


def importance(
    layer: int, value: float, stack: str = "encoder", measure: str = "angular", **more: object
) -> Row:
    about = {"curve": "a", "stack": stack, "layer": layer, "measure": measure, "value": value}
    return {"kind": "importance", **about, **more}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw rows and give the figures themselves, by name."""
    seen: list[Figure] = []
    monkeypatch.setattr(figures, "as_png", lambda figure: seen.append(figure) or b"")
    monkeypatch.setattr(figures, "as_svg", lambda figure: b"")

    def draw(rows: Sequence[Row], title: str = "") -> dict[str, Figure]:
        seen.clear()
        names = [drawing.name for drawing in figures.draw(sort_rows(rows), title=title)]
        return dict(zip(names, seen, strict=True))

    return draw


def line(axes: Any, i: int = 0) -> list[tuple[float, float]]:
    """The points of the i-th line that joins points."""
    joined = [
        line
        for line in axes.lines
        if line.get_linestyle() != "None" and line.get_marker() != "None"
    ]
    return [(float(x), float(y)) for x, y in joined[i].get_xydata()]


def hollow(axes: Any) -> list[tuple[float, float]]:
    loose = [
        line
        for line in axes.lines
        if line.get_linestyle() == "None" and line.get_markerfacecolor() == "none"
    ]
    return [(float(x), float(y)) for line in loose for x, y in line.get_xydata()]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([plan("a", 6, 6, parameters=3)], []),
        ([plan("a", 6, 6, bleu=3)], ["figure"]),
        ([plan("a", 6, 6, latency_ms=3)], []),
        ([plan("a", 6, 6, bleu=3, latency_ms=3)], ["figure", "latency"]),
        ([plan("a", 6, 6, bleu=3, rate=0.1), plan("a", 6, 3, bleu=3, rate=0.1)], ["figure"]),
        (
            [plan("a", 6, 6, bleu=3, rate=0.1), plan("a", 6, 6, bleu=3, rate=0.2)],
            ["figure", "rates"],
        ),
        ([plan("a", 6, 6, bleu=3, rate=0.1), plan("a", 6, 6, rate=0.2)], ["figure"]),
        (
            [
                plan("a", 6, 6, tokens_per_second=9, rate=0.1),
                plan("a", 6, 6, tokens_per_second=8, rate=0.2),
            ],
            ["speed"],
        ),
        (
            [
                plan("a", 6, 6, tokens_per_second=9, rate=0.1),
                plan("a", 6, 3, tokens_per_second=8, rate=0.1),
            ],
            [],
        ),
        ([importance(0, 1.0)], ["importance"]),
        ([trial(3, 4.0)], ["search"]),
    ],
)
def test_a_figure_is_drawn_only_where_there_is_something_to_see(
    rows: list[Row], names: list[str], drawn: Any
) -> None:
    assert [*drawn(rows)] == names


def test_quality_against_depth(drawn: Any) -> None:
    rows = [plan("a", 6, d, bleu=bleu) for d, bleu in ((1, 20.0), (6, 36.0), (3, 30.0), (3, 31.0))]
    (figure,) = drawn(
        [*rows, plan("a", 3, 6, bleu=35.0), plan("b", 6, 6, bleu=37.0)], "Title"
    ).values()
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), figure.get_suptitle()) == (
        "layers kept in the decoder",
        "BLEU",
        "Title",
    )
    assert (line(axes), line(axes, 1), hollow(axes)) == (
        [(1, 20), (3, 31), (6, 36)],
        [(6, 37)],
        [(3, 30)],
    )
    assert axes.xaxis_inverted() and axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("lowest", "other", "bottoms"),
    [(0.0, 36.0, [0, 30]), (0.0, 29.0, [0]), (21.0, 36.0, [0])],
    ids=["a curve collapses", "one curve alone is left", "none collapses"],
)
def test_a_closer_look_at_curves_that_a_collapsed_one_makes_look_alike(
    lowest: float, other: float, bottoms: list[float], drawn: Any
) -> None:
    scores = {"a": (40.0, lowest), "b": (40.0, 37.0), "c": (39.0, other)}
    rows = [
        plan(name, 6, depth, bleu=bleu)
        for name, both in scores.items()
        for depth, bleu in zip((6, 1), both, strict=True)
    ]
    panels = drawn(rows)["figure"].axes
    assert [axes.get_ylim()[0] for axes in panels] == bottoms
    assert [line(axes, 1) for axes in panels] == [[(1, 37), (6, 40)]] * len(panels)
    assert len({axes.get_ylim()[1] for axes in panels}) == 1


def test_loss_is_drawn_as_it_is_and_said_to_be_better_low(drawn: Any) -> None:
    rows = [
        {"curve": "lm", "decoder_layers": d, "loss": loss}
        for d, loss in ((8, 4.0), (4, 5.0), (4, 4.5))
    ]
    (axes,) = drawn(rows)["figure"].axes
    assert "lower is better" in axes.get_ylabel() and axes.get_ylim()[0] > 0
    assert (line(axes), hollow(axes)) == ([(4, 4.5), (8, 4)], [(4, 5)])


def test_accuracies_are_not_drawn_from_zero_which_guessing_does_not_give(drawn: Any) -> None:
    rows = [
        {"curve": "a", "encoder_layers": d, "accuracy": accuracy}
        for d, accuracy in ((12, 79.0), (3, 77.0))
    ]
    (axes,) = drawn(rows)["figure"].axes
    assert 70 < axes.get_ylim()[0] < 77 and 79 < axes.get_ylim()[1] < 85


def test_rows_without_the_quality_shown_are_counted_in_the_caption() -> None:
    rows = [
        plan("a", 6, 6, bleu=36.0),
        plan("a", 6, 3, bleu=30.0),
        plan("a", 3, 3, bleu=3.0),
        plan("b", 6, 6, loss=4.0),
    ]
    (drawing,) = figures.draw(sort_rows(rows))
    assert "Rows in the table only: 2." in drawing.caption
    assert "table only" not in figures.draw(sort_rows(rows[:2]))[0].caption


def test_speed_of_training_is_drawn_against_the_rate_from_zero(drawn: Any) -> None:
    rows = [
        plan("a", 6, 6, rate=rate, tokens_per_second=speed)
        for rate, speed in ((0.5, 9.0), (0.0, 5.0), (0.2, 6.0))
    ]
    (axes,) = drawn(rows)["speed"].axes
    assert line(axes) == [(0.0, 5.0), (0.2, 6.0), (0.5, 9.0)]
    assert axes.get_ylim()[0] == 0


def test_families_are_drawn_by_what_they_cost(drawn: Any) -> None:
    rows: list[Row] = [plan("a", 6, depth, bleu=30.0 + depth) for depth in (6, 3)]
    for curve, cost, bleu in (("a", 2.0, 34.5), ("b", 5.5, 35.0), ("a", 1.0, 33.0)):
        rows.append({"kind": "family", "curve": curve, "cost": cost, "bleu": bleu})
    (axes,) = drawn(rows)["cost"].axes
    assert (line(axes), line(axes, 1)) == ([(2.0, 34.5), (1.0, 33.0)], [(5.5, 35.0)])
    assert axes.get_ylabel() == "BLEU,\nmean of all depths"
    assert axes.get_xlim()[0] == 0


def test_latency_joins_the_front_of_each_model_and_names_what_nothing_beats(drawn: Any) -> None:
    numbers = (
        ("a", 6, 50.0, 36.0),
        ("a", 3, 30.0, 30.0),
        ("a", 4, 55.0, 33.0),
        ("b", 3, 29.0, 31.0),
    )
    rows = [plan(curve, 6, d, latency_ms=ms, bleu=bleu) for curve, d, ms, bleu in numbers]
    (axes,) = drawn([*rows, plan("a", 6, 2, bleu=9.0)])["latency"].axes
    assert (line(axes), line(axes, 1), hollow(axes)) == (
        [(30, 30), (50, 36)],
        [(29, 31)],
        [(55, 33)],
    )
    assert [text.get_text() for text in axes.texts] == ["6+3", "6+6"]


def test_latency_shows_quartiles_where_they_were_measured(drawn: Any) -> None:
    rows = [plan("a", 6, 6, latency_ms=50.0, bleu=3.0, latency_ms_quartiles=[45.0, 60.0])]
    (axes,) = drawn([*rows, plan("a", 6, 3, latency_ms=30.0, bleu=2.0)])["latency"].axes
    bars = [
        bar.get_xydata().tolist()
        for bar in axes.lines
        if bar.get_marker() == "None" and len(bar.get_xdata())
    ]
    assert bars == [[[45.0, 3.0], [60.0, 3.0]]]


def test_importance_has_a_panel_for_each_measure_and_stack(drawn: Any) -> None:
    rows = [
        importance(1, 0.5, error=0.1),
        importance(0, 0.2),
        importance(2, 0.3, "decoder", "leave-one-out"),
    ]
    panels = {
        axes.get_title(): axes for axes in drawn(rows)["importance"].axes if axes.get_visible()
    }
    assert [*panels] == ["encoder, angular", "decoder, leave-one-out"]
    axes = panels["encoder, angular"]
    (bars,) = axes.containers
    assert bars.lines[0].get_xydata().tolist() == [[0, 0.2], [1, 0.5]]
    (segments,) = (collection.get_segments() for collection in bars.lines[2])
    assert [ends.tolist() for ends in segments if len(ends)] == [
        [[1, 0.4], [1, 0.6]]
    ]  # where an error is known


def test_rates_have_a_line_for_each_depth(drawn: Any) -> None:
    rows = [plan(f"p{rate}", 6, d, rate=rate, bleu=d - rate) for d in (3, 6) for rate in (0.5, 0.0)]
    (axes,) = drawn(rows)["rates"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "6+6 layers",
        "6+3 layers",
    ]
    assert (line(axes), line(axes, 1)) == ([(0, 6), (0.5, 5.5)], [(0, 3), (0.5, 2.5)])


def test_the_search_joins_the_best_trial_at_each_depth(drawn: Any) -> None:
    (axes,) = drawn([trial(3, 5.0), trial(3, 4.5), trial(6, 4.0)])["search"].axes
    assert (line(axes), hollow(axes)) == ([(3, 4.5), (6, 4)], [(3, 5)])


def test_curves_are_told_apart_without_colour() -> None:
    assert len({(canvas.style(i)["marker"], canvas.style(i)["linestyle"]) for i in range(28)}) == 28


def test_many_names_stand_beside_the_curves(drawn: Any) -> None:
    few, many = ([plan(f"model {i}", 6, 6, bleu=i) for i in range(n)] for n in (4, 5))
    figure = drawn(few)["figure"]
    assert figure.axes[0].get_legend() and not figure.legends
    figure = drawn(many)["figure"]
    assert figure.legends and not figure.axes[0].get_legend()


def test_a_stranger_s_name_is_taken_literally_and_shortened() -> None:
    # Neither a formula (this one would not parse) nor hidden, as matplotlib does with names that
    # begin with _
    rows = [
        plan(name, 6, 6, bleu=1.0)
        for name in (r"$\frac{$", "_hidden", "<script>", "-->", "x" * 300)
    ]
    (drawing,) = figures.draw(sort_rows(rows))
    svg = drawing.svg.decode()
    assert (
        r"<!-- $\frac{$ -->" in svg
        and "<!-- _hidden -->" in svg
        and f"<!-- {'x' * 25}…{'x' * 14} -->" in svg
    )
    assert "<script>" not in svg and "<!-- -->" not in svg


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    (drawing,) = figures.draw(sort_rows([plan("a", 6, 6, bleu=1.0)]))
    assert dict(matplotlib.rcParams) == before
    assert drawing.png.startswith(b"\x89PNG") and drawing.svg.startswith(SVG)
