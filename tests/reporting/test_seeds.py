# SPDX-License-Identifier: MIT
"""Models of several seeds in one row: means, spreads, and what is left as it is."""

from typing import Any

import pytest

from fairseq_layerdrop.reporting.intake import sort_rows
from fairseq_layerdrop.reporting.report import make_report
from fairseq_layerdrop.reporting.seeds import over_seeds


def row(seed: int, loss: float, **more: Any) -> dict[str, Any]:
    return {
        "curve": "LayerDrop",
        "plan": "all",
        "decoder_layers": 8,
        "seed": seed,
        "loss": loss,
        **more,
    }


def test_seeds_of_one_plan_are_a_mean_with_its_standard_deviation() -> None:
    (found,) = over_seeds(
        [row(1, 4.0, latency_ms=3.0), row(2, 5.0, latency_ms=3.0), row(3, 9.0, latency_ms=3.0)]
    )
    assert (found["loss"], found["seeds"]) == (6.0, 3)
    assert found["spread"] == {"loss": pytest.approx(7**0.5)}  # squares of 2, 1 and 3, over 2
    assert "latency_ms" not in found and "seed" not in found


@pytest.mark.parametrize(
    "other",
    [
        row(1, 5.0),  # the same seed twice
        row(2, 5.0, plan="0,2"),
        row(2, 5.0, curve="plain"),
        row(2, 5.0, signature={"subset": "valid"}),
        {**row(2, 5.0), "seed": None},
    ],
)
def test_rows_that_differ_in_more_stay_as_they_are(other: dict[str, Any]) -> None:
    rows = [row(1, 4.0, signature={"subset": "test"} if "signature" in other else None), other]
    assert over_seeds(rows) == rows


def test_a_report_shows_how_far_the_seeds_lie_apart() -> None:
    rows = [
        row(1, 4.0),
        row(2, 5.0),
        {**row(1, 3.0), "decoder_layers": 16},
        {"kind": "training", "run": "x", "updates": 9, "seconds": 90.0},
    ]
    files = make_report(sort_rows(rows))
    assert "4.500 ± 0.707" in files["table.md"].decode()
    assert "one standard deviation over the seeds" in files["table.md"].decode()
    assert sort_rows(rows).others == [], "rows of trainings are known"


def test_a_row_cannot_bring_a_spread_of_its_own() -> None:
    table = make_report(sort_rows([row(1, 4.0, spread={"loss": "<b>"}, seeds="many")]))[
        "table.md"
    ].decode()
    assert "±" not in table and "many" not in table
