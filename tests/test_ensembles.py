# SPDX-License-Identifier: MIT
"""Ensembles of different depths, ``--path a.pt:b.pt``: in stock fairseq and on demand."""

import math
from collections.abc import Callable
from pathlib import Path

from conftest import SENTENCES, Run
from fairseq_programs import SHORT, USER_DIR, Hypotheses, assert_same_hypotheses, fairseq, generate

DECODER = ["--decoder-keep", "0,2"]
ENCODER = ["--encoder-keep", "0,3"]
PLUGIN = ["--user-dir", USER_DIR, "--task", "layerdrop_translation"]


def together(*checkpoints: Path) -> Path:
    """Several files as one ``--path``."""
    return Path(":".join(map(str, checkpoints)))


def test_stock_fairseq_averages_the_probabilities_of_models_of_different_depths(
    data: Path, pruned: Callable[..., Path]
) -> None:
    full, small = pruned(), pruned(*DECODER)
    one, two, both = (
        generate(data, path, "--score-reference") for path in (full, small, together(full, small))
    )
    assert len(both) == SENTENCES["test"]
    assert one != two
    for n, (_, text, scores) in both.items():
        assert text == one[n][1] == two[n][1]  # the reference
        for score, a, b in zip(scores, one[n][2], two[n][2], strict=True):
            assert (
                abs(score - math.log2((2**a + 2**b) / 2)) < 2e-4
            )  # in bits, four decimals are printed


def test_layers_that_every_model_has_are_kept_in_each(
    data: Path,
    trained: Run,
    pruned: Callable[..., Path],
    stock_hypotheses: Callable[..., Hypotheses],
) -> None:
    on_demand = generate(data, together(trained.last, pruned(*DECODER)), *PLUGIN, *ENCODER, *SHORT)
    files = together(pruned(*ENCODER), pruned(*ENCODER, *DECODER))
    assert_same_hypotheses(on_demand, generate(data, files, *SHORT), sentences=SENTENCES["test"])
    assert on_demand != stock_hypotheses(*ENCODER)  # the first model alone


def test_layers_that_one_model_lacks_are_refused_in_one_line(
    data: Path, trained: Run, pruned: Callable[..., Path]
) -> None:
    path = together(trained.last, pruned(*DECODER))
    output = fairseq(
        "generate", data, "--path", path, *PLUGIN, "--decoder-keep", "0,3", "--cpu", fails=True
    )
    last = output.splitlines()[-1]
    assert last.startswith("ValueError: --decoder-keep must fit every model of --path: decoder: ")
    assert "0-1" in last and "got 3" in last
    assert "\nH-" not in output
