# SPDX-License-Identifier: MIT
"""The benchmarks run, at sizes at which their times mean nothing."""

import importlib
import json
from collections.abc import Callable

import pytest
from fairseq_programs import REPOSITORY, python

SMALL = [
    *("--rounds", "1", "--encoder-layers", "2", "--decoder-layers", "2"),
    *(
        "--dim",
        "16",
        "--ffn",
        "16",
        "--heads",
        "2",
        "--vocabulary",
        "20",
        "--sentences",
        "2",
        "--length",
        "4",
    ),
]
SMALLEST = [*SMALL, "--updates", "2", "--warm-up", "0"]
FLAGS = [", --find-unused-parameters", ", --checkpoint-activations"]
VARIANTS = [
    *(
        "stock 2+2",
        "stock 2+1",
        "stock 1+2",
        "stock 1+1",
        "stock LayerDrop, p 0.2",
        "stock LayerDrop, p 0.5",
    ),
    *(
        f"{structure}, p {rate}"
        for structure in ("layers", "sub-layers")
        for rate in ("0", "0.2", "0.5")
    ),
]


@pytest.fixture
def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``printed("search", *FLAGS)``: what a benchmark prints, run in this process."""

    def run(name: str, *flags: str) -> str:
        monkeypatch.syspath_prepend(REPOSITORY)
        benchmark = importlib.import_module(f"benchmarks.{name}")
        # it would keep this process's memory, too
        monkeypatch.setattr(benchmark, "keep_memory", lambda: None, raising=False)
        benchmark.main(flags)
        return capsys.readouterr().out

    return run


def test_training_speed_has_a_row_for_each_variant(printed: Callable[..., str]) -> None:
    table = printed("training_speed", *SMALLEST)
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in cells[2:]] == VARIANTS
    assert {len(row) for row in cells} == {9}


@pytest.mark.slow
def test_training_speed_counts_what_ran_in_bfloat16(printed: Callable[..., str]) -> None:
    lines = printed("training_speed", *SMALLEST, "--bf16", "--json").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["variant"] for row in rows] == VARIANTS
    ran = {row["variant"]: row["layers_ran"] for row in rows}
    for depths in ("2+2", "2+1", "1+2", "1+1"):
        assert ran[f"stock {depths}"] == [float(depth) for depth in depths.split("+")]
    assert ran["layers, p 0"] == ran["sub-layers, p 0"] == [2, 2]
    for variant in ("layers, p 0.5", "sub-layers, p 0.5"):
        assert 0 < sum(ran[variant]) < 4


def test_search_compares_ways_to_the_same_numbers_and_counts_their_work(
    printed: Callable[..., str],
) -> None:
    lines = printed("search", *SMALL, "--sample", "0", "--json").splitlines()
    rows = {row["pair"]: row for row in map(json.loads, lines)}
    assert [*rows] == ["all 9", "greedy, 7 plans", "screening, 20%", "sweep, 8 plans"]
    d, ffn, words, length, tokens = 16, 16, 20, 4, 8
    attention = (
        4 * d * d + 2 * length * d
    )  # a token: four projections, the weights and what they are applied to
    encoder, decoder, output = (
        tokens * n for n in (attention + 2 * d * ffn, 2 * attention + 2 * d * ffn, d * words)
    )
    alone, shared = 12 * (encoder + decoder) + 9 * output, 3 * encoder + 9 * decoder + 9 * output
    assert rows["all 9"]["bound"] == pytest.approx(alone / shared)
    assert rows["sweep, 8 plans"]["bound"] == 1
    assert rows["all 9"]["machine"].endswith("held: encoder 4, decoder 4")


@pytest.mark.slow
def test_data_parallel_has_a_row_for_each_way_and_rate() -> None:
    output = python("-m", "benchmarks.data_parallel", *SMALLEST, "--json")
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    ways = [
        f"{backend}{flag}" for backend in ("pytorch_ddp", "legacy_ddp") for flag in ("", *FLAGS)
    ]
    names = [f"{way}, p {rate}" for way in ways for rate in ("0", "0.5")]
    assert [row["variant"] for row in rows] == [*names, "pytorch_ddp, half the layers"]
    assert [row["of_ideal"] is not None for row in rows] == [
        name.endswith("0.5") for name in (*names, "half")
    ]
    assert rows[0]["of_default"] == [1, 1, 1]


@pytest.mark.slow
def test_pruning_says_which_check_each_way_had(printed: Callable[..., str]) -> None:
    table = printed(
        "prune_checkpoint", *("--rounds", "1", "--dim", "32", "--ffn", "32", "--vocabulary", "50")
    )
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line[:2] == "| "]
    checks = {row[0]: row[6] for row in cells[2:] if len(row) == 7}
    assert checks == {
        "fairseq-layerdrop prune": "compared tensor by tensor",
        "fairseq-layerdrop prune --check load": "loaded by fairseq, outputs equal",
    }
    assert len(cells) == 7
