# SPDX-License-Identifier: MIT
"""``heal`` of every family that can have a teacher, as each was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from fairseq_programs import LANGUAGES, WIDTH, masked_lm_data, sentence_data
from planted import write_model

ENCODER = ["--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "32", "--encoder-layers", "2"]
ENCODER += ["--encoder-attention-heads", "2"]
BERT = ["--arch", "roberta", *ENCODER, "--max-positions", "32"]
ADAM = ["--optimizer", "adam", "--lr", "0.01"]
BATCHES = ["--batch-size", "8", "--required-batch-size-multiple", "1"]


def healed(command: Command, data: Path, path: Path, plan: str, *flags: str) -> dict[str, Any]:
    """The losses of a point, healed in eight updates."""
    points = ["--path", path, "--points", plan, "--max-update", "8", "--json"]
    done = command("heal", data, path.with_suffix(""), *points, "--", "--cpu", *flags)
    assert done.status == 0, done.err
    (model,) = json.loads(done.out)["models"]
    log = path.with_suffix("") / "training" / model["file"].removesuffix(".pt") / "train.log"
    assert 'distill_loss": "' in log.read_text()
    loss: dict[str, Any] = model["loss"]
    return loss


def test_a_language_model_with_adaptive_softmax(
    official_lm: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "full.pt"
    path.write_bytes((official_lm / "checkpoint.pt").read_bytes())
    flags = ["--train-subset", "valid"]
    loss = healed(command, official_lm / "data-bin", path, "even:4", *flags)
    assert loss["healed"] < loss["compensated"] < loss["cut"]


@pytest.mark.slow
def test_a_masked_language_model_and_one_fine_tuned(tmp_path: Path, command: Command) -> None:
    data = masked_lm_data(tmp_path)
    task = ["--task", "masked_lm", "--criterion", "masked_lm", "--tokens-per-sample", "24"]
    path = write_model(data, tmp_path / "full.pt", *task, *BERT, *ADAM, scale=1)
    loss = healed(command, data, path, "0", *BATCHES)
    assert loss["healed"] < loss["compensated"]
    (tmp_path / "sentences").mkdir()
    classes = sentence_data(tmp_path / "sentences", data / "dict.txt")
    task = ["--task", "sentence_prediction", "--criterion", "sentence_prediction"]
    task += ["--num-classes", "2", "--init-token", "0"]
    path = write_model(classes, tmp_path / "fine.pt", *task, *BERT, *ADAM, scale=1)
    loss = healed(command, classes, path, "0", *BATCHES)
    assert loss["healed"] < loss["compensated"]


@pytest.mark.slow
def test_bart(data: Path, tmp_path: Path, command: Command) -> None:
    model = [*LANGUAGES, *WIDTH, "--arch", "bart_base", "--decoder-layers", "2", *ENCODER]
    model += ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
    path = write_model(data, tmp_path / "full.pt", "--task", "translation", *model, *ADAM, scale=1)
    loss = healed(command, data, path, "2+1", *BATCHES)
    assert loss["healed"] < loss["compensated"]
