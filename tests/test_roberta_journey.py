# SPDX-License-Identifier: MIT
"""RoBERTa's whole way: pre-train, prune, fine-tune in stock fairseq, classify."""

import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import alone
from fairseq_programs import (
    USER_DIR,
    fairseq,
    in_stock,
    logged,
    masked_lm_data,
    prune,
    python,
    sentence_data,
)

from fairseq_layerdrop import cli
from fairseq_layerdrop.evaluation.loading import load

COMMON = [
    *(
        "--optimizer",
        "adam",
        "--seed",
        "3",
        "--cpu",
        "--num-workers",
        "0",
        "--required-batch-size-multiple",
        "1",
    ),
    *("--no-epoch-checkpoints", "--no-progress-bar", "--log-format", "json", "--batch-size", "5"),
]
SIZE = [
    "--encoder-embed-dim",
    "32",
    "--encoder-ffn-embed-dim",
    "32",
    "--encoder-attention-heads",
    "2",
]


class Tuned(NamedTuple):
    """What a fine-tuning left, and what it printed."""

    checkpoint: Path
    data: Path
    sentences: Path
    output: str


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A RoBERTa of 4 layers after two epochs with LayerDrop, and its data."""
    data, folder = (
        masked_lm_data(tmp_path_factory.mktemp("text")),
        tmp_path_factory.mktemp("pretrained"),
    )
    plugin = [
        "--user-dir",
        USER_DIR,
        "--arch",
        "layerdrop_roberta_base",
        *SIZE,
        "--encoder-layers",
        "4",
    ]
    task = [
        "--task",
        "layerdrop_masked_lm",
        "--criterion",
        "masked_lm",
        "--tokens-per-sample",
        "24",
        "--lr",
        "0.005",
    ]
    fairseq("train", data, *plugin, *task, *COMMON, "--max-epoch", "2", "--save-dir", folder)
    return folder / "checkpoint_last.pt", data


@pytest.fixture(scope="module")
def tuned(pretrained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Its layers 0 and 3, fine-tuned by stock fairseq with the flags that ``prune`` printed."""
    folder = tmp_path_factory.mktemp("tuned")
    keep = ["--encoder-keep", "0,3"]
    printed = python(
        "-m", "fairseq_layerdrop.cli", "prune", pretrained[0], folder / "small.pt", *keep
    )
    (flags,) = (
        line.removeprefix("to train on: ")
        for line in printed.splitlines()
        if line.startswith("to train on: ")
    )
    data = sentence_data(tmp_path_factory.mktemp("classes"), pretrained[1] / "dict.txt")
    task = [
        "--task",
        "sentence_prediction",
        "--criterion",
        "sentence_prediction",
        "--num-classes",
        "2",
    ]
    task += ["--max-positions", "24", "--init-token", "0", "--lr", "0.003", "--max-epoch", "8"]
    best = ["--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric"]
    output = fairseq(
        "train", data, *task, *best, *COMMON, *shlex.split(flags), "--save-dir", folder
    )
    assert "loading pretrained model from" in output
    return Tuned(folder / "checkpoint_last.pt", data, data.parent / "valid.input0", output)


def test_stock_fairseq_classifies_with_the_pruned_and_fine_tuned_model(
    tuned: Tuned, tmp_path: Path
) -> None:
    """With a plain file and dictionaries beside it, as users.md row 18 and 39 wanted."""
    model = prune(tuned.checkpoint, tmp_path / "model.pt", "--copy-dicts", str(tuned.data))
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("dict.txt")} == {
        "input0/dict.txt",
        "label/dict.txt",
    }
    script = str(Path(__file__).with_name("predict_in_stock.py"))
    in_stock(script, tmp_path, model.name, tuned.sentences, tmp_path / "predicted")
    predicted = (tmp_path / "predicted").read_text().split()
    truth = tuned.sentences.with_suffix(".label").read_text().split()
    accuracy = 100 * sum(map(str.__eq__, predicted, truth)) / len(truth)
    last = logged(tuned.output, "valid")[-1]
    assert len(set(predicted)) == 2
    assert accuracy == pytest.approx(float(last["valid_accuracy"]), abs=0.1)


def test_the_fine_tuned_model_is_of_the_pruned_depth(tuned: Tuned) -> None:
    shown = python("-m", "fairseq_layerdrop.cli", "inspect", tuned.checkpoint)
    assert "encoder       2 layers" in shown
    assert "sentence_classification_head" in shown


def test_transformers_without_fairseq_computes_the_same(
    pretrained: tuple[Path, Path], tuned: Tuned, tmp_path: Path
) -> None:
    """The pruned language model, and what was fine-tuned from it, with its head."""
    small = prune(pretrained[0], tmp_path / "small.pt", "--encoder-keep", "0,3")
    head = "sentence_classification_head"
    asked = [(small, pretrained[1], None), (tuned.checkpoint, tuned.data, head)]
    ids = [[0, 4, 9, 5, 2], [0, 6, 2, 1, 1]]
    requests, expected = [], []
    for number, (checkpoint, data, name) in enumerate(asked):
        out = tmp_path / f"out{number}"
        flags = ["--to", "huggingface", *(["--head", name] if name else [])]
        assert cli.main(["export", str(checkpoint), str(data), str(out), *flags]) == 0
        model = load(str(checkpoint), str(data)).model
        logits = model(torch.tensor(ids), classification_head_name=name)[0]
        expected.append(logits)
        requests.append({"folder": str(out), "ids": ids})
    found = [torch.tensor(answer) for answer in alone(requests)]
    assert torch.allclose(found[0][0], expected[0][0], atol=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)
