# SPDX-License-Identifier: MIT
"""What is best, by which score, and which way is better."""

from typing import Any

import pytest

from fairseq_layerdrop.reporting.quality import (
    LOSS,
    QUALITIES,
    Point,
    best_at_each,
    depth_axis,
    pareto_front,
    quality_of,
    smallest_not_worse,
)

BLEU = QUALITIES[0]
Row = dict[str, Any]


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(x, y, {}) for x, y in pairs]


def pairs(found: list[Point]) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in found]


def plan(curve: str, **more: object) -> Row:
    return {
        "curve": curve,
        **{f"{k}_layers" if k in ("encoder", "decoder") else k: v for k, v in more.items()},
    }


def test_the_first_quality_of_the_order_is_shown() -> None:
    rows = [{"loss": 1}, {"ppl": 2, "accuracy": 3}, {"rougeL": 4}, {"bleu": 5}]
    keys = [quality_of(rows[:n]) for n in range(5)]
    assert [quality and quality.key for quality in keys] == [
        None,
        "loss",
        "accuracy",
        "rougeL",
        "bleu",
    ]


@pytest.mark.parametrize(("quality", "best"), [(BLEU, [(1, 3), (2, 7)]), (LOSS, [(1, 1), (2, 7)])])
def test_the_best_at_each_depth(quality: Any, best: list[tuple[float, float]]) -> None:
    given = points((2, 7), (1, 1), (1, 3), (1, 2))
    chosen, rest = best_at_each(given, quality)
    assert pairs(chosen) == best
    assert sorted(pairs(chosen + rest)) == sorted(pairs(given))


@pytest.mark.parametrize(
    ("quality", "front"),
    [(BLEU, [(1, 5), (3, 6), (9, 8)]), (LOSS, [(1, 4), (2, 3)])],
)
def test_the_front_is_what_nothing_beats_in_cost_and_quality(
    quality: Any, front: list[tuple[float, float]]
) -> None:
    given = points((9, 8), (2, 3), (1, 5), (3, 6), (1, 4), (4, 6), (9, 7), (3, 6))
    found, rest = pareto_front(given, quality)
    assert pairs(found) == front
    assert sorted(pairs(found + rest)) == sorted(pairs(given))


def test_depth_is_the_decoder_s_among_rows_with_the_encoder_whole() -> None:
    deep = [plan("12", encoder=12, decoder=d) for d in (6, 3)]
    rows = [
        *deep,
        plan("12", encoder=6, decoder=6),
        plan("6", encoder=6, decoder=2),
        plan("6", encoder=3, decoder=2),
    ]
    axis = depth_axis(rows)
    assert axis.label == "layers kept in the decoder"
    assert axis.curves == {
        "12": [(6, deep[0]), (3, deep[1])],
        "6": [(2, rows[3])],
    }  # whole is each model's own


@pytest.mark.parametrize(
    ("rows", "label", "counted"),
    [
        (
            [plan("a", encoder=6, decoder=6), plan("a", encoder=3, decoder=3)],
            "layers kept",
            [12, 6],
        ),
        ([plan("a", decoder=8), plan("a", decoder=4)], "layers kept in the decoder", [8, 4]),
        ([plan("a", encoder=8), plan("a", encoder=4)], "layers kept in the encoder", [8, 4]),
        ([plan("a", encoder=8), plan("a", encoder=6, decoder=1)], "layers kept", [8, 7]),
    ],
)
def test_what_depth_is_counted_of(rows: list[Row], label: str, counted: list[int]) -> None:
    axis = depth_axis(rows)
    assert (axis.label, [depth for depth, _ in axis.curves["a"]]) == (label, counted)


def test_significantly_better_is_not_worse() -> None:
    full = plan("a", decoder=6, bleu=30.0)
    better, worse = (plan("a", decoder=3, bleu=bleu, p_holm=0.001) for bleu in (31.0, 29.0))
    assert smallest_not_worse([full, better]) is better
    assert smallest_not_worse([full, worse]) is None
    assert (
        smallest_not_worse([{**full, "p_holm": 1.0}, worse]) is None
    )  # no model is smaller than itself
    low, high = (plan("a", decoder=3, loss=loss, p_holm=0.001) for loss in (3.0, 5.0))
    assert smallest_not_worse([plan("a", decoder=6, loss=4.0), low, high]) is low


def test_among_equally_shallow_plans_the_best_is_named() -> None:
    rows = [
        plan("a", decoder=d, bleu=bleu, p_holm=0.5)
        for d, bleu in ((4, 30.0), (3, 28.0), (3, 29.0), (3, 27.0))
    ]
    assert smallest_not_worse([plan("a", decoder=6, bleu=30.0), *rows]) is rows[2]
