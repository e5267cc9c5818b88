# SPDX-License-Identifier: MIT
"""Language models in fairseq's programs: pruned in stock ``fairseq-eval-lm``; on demand."""

import re
from pathlib import Path

import pytest
from fairseq_programs import USER_DIR, fairseq, prune

# What official fairseq 0.12.2 says of this checkpoint (fixtures/README.md): loss in base 2, by
# layers kept.
OFFICIAL = {"0,1,2,3,4,5,6,7": 5.2571, "0,2,4,6": 5.3089, "0,1,6,7": 5.3917, "1,2,3,5": 5.4043}
TASK = ["--user-dir", USER_DIR, "--task", "layerdrop_language_modeling"]


def evaluate(data: Path, checkpoint: Path, *flags: object) -> float:
    """The loss that ``fairseq-eval-lm`` prints for the whole test set."""
    sure = ["--gen-subset", "test", "--batch-size", "8", "--tokens-per-sample", "64", "--cpu"]
    output = fairseq(
        "eval_lm", data, "--path", checkpoint, *sure, "--required-batch-size-multiple", "1", *flags
    )
    assert "Evaluated 1,228 tokens" in output  # all of them: 100 sentences
    return float(re.search(r"Loss \(base 2\): ([\d.]+)", output)[1])


@pytest.mark.parametrize("layers", OFFICIAL)
def test_a_pruned_official_checkpoint_has_official_losses(
    official_lm: Path, layers: str, tmp_path: Path
) -> None:
    small = prune(official_lm / "checkpoint.pt", tmp_path / "small.pt", "--decoder-keep", layers)
    assert evaluate(official_lm / "data-bin", small) == pytest.approx(OFFICIAL[layers], abs=1e-4)


def test_depth_on_demand_has_the_official_loss(official_lm: Path) -> None:
    loss = evaluate(
        official_lm / "data-bin", official_lm / "checkpoint.pt", *TASK, "--decoder-keep", "1-3,5"
    )
    assert loss == pytest.approx(OFFICIAL["1,2,3,5"], abs=1e-4)


def test_an_encoder_is_refused_where_there_is_none(official_lm: Path) -> None:
    sure = ["--gen-subset", "test", "--path", official_lm / "checkpoint.pt", "--cpu"]
    output = fairseq(
        "eval_lm", official_lm / "data-bin", *sure, *TASK, "--encoder-keep", "0", fails=True
    )
    assert "encoder: the model has no such stack (it has decoder)" in output


def test_trained_with_layerdrop_pruned_and_evaluated_by_stock_fairseq(
    official_lm: Path, tmp_path: Path
) -> None:
    data = official_lm / "data-bin"
    width = ["--decoder-embed-dim", "32", "--decoder-input-dim", "32", "--decoder-output-dim", "32"]
    model = [
        "--arch",
        "layerdrop_transformer_lm",
        *width,
        "--decoder-ffn-embed-dim",
        "32",
        "--decoder-layers",
        "4",
    ]
    flags = [
        "--train-subset",
        "valid",
        "--valid-subset",
        "test",
        "--tokens-per-sample",
        "64",
        "--max-tokens",
        "1000",
    ]
    flags += [
        "--required-batch-size-multiple",
        "1",
        "--optimizer",
        "adam",
        "--lr",
        "0.01",
        "--max-update",
        "6",
    ]
    flags += [
        "--decoder-layerdrop",
        "0.5",
        "--decoder-attention-heads",
        "2",
        "--valid-plans",
        "even:2",
        "--cpu",
    ]
    output = fairseq(
        "train", data, *TASK, *model, *flags, "--no-epoch-checkpoints", "--save-dir", tmp_path
    )
    assert "loss_even-2" in output and "decoder_keep" in output
    last = tmp_path / "checkpoint_last.pt"
    on_demand = evaluate(data, last, *TASK, "--decoder-keep", "even:2")
    assert (
        evaluate(data, prune(last, tmp_path / "small.pt", "--decoder-keep", "even:2")) == on_demand
    )
    assert evaluate(data, prune(last, tmp_path / "whole.pt")) != on_demand
