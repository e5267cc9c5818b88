# SPDX-License-Identifier: MIT
"""Training goes on from a pruned file in stock fairseq, by the printed flags and others."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from fairseq_programs import (
    LANGUAGES,
    STYLE,
    USER_DIR,
    assert_same_tensors,
    fairseq,
    in_stock,
    train,
    weights,
)

from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.pruning.config import plain

KEEP = ["--encoder-keep", "0,3", "--decoder-keep", "0,2"]
COMMON = [
    *("--optimizer", "adam", "--seed", "3", "--cpu", "--num-workers", "0", "--batch-size", "4"),
    *("--required-batch-size-multiple", "1", "--no-epoch-checkpoints", "--max-update", "1"),
]
DROPOUT = [
    "--dropout",
    "0.3",
    "--attention-dropout",
    "0.2",
    "--activation-dropout",
    "0.15",
    "--activation-fn",
    "gelu",
]
ENCODER = [
    *("--encoder-layers", "3", "--encoder-embed-dim", "24", "--encoder-ffn-embed-dim", "40"),
    *("--encoder-attention-heads", "3", "--encoder-normalize-before"),
]
DECODER = [
    *("--decoder-layers", "3", "--decoder-embed-dim", "24", "--decoder-ffn-embed-dim", "56"),
    *("--decoder-attention-heads", "4", "--decoder-normalize-before", "--decoder-learned-pos"),
]
FORMS = [
    *("--encoder-learned-pos", "--share-all-embeddings", "--share-decoder-input-output-embed"),
    *("--layernorm-embedding", "--no-scale-embedding"),
]
TEXT = ["--tokens-per-sample", "32", "--sample-break-mode", "complete"]


@dataclass(frozen=True)
class Changed:
    """A model of ours with no option at its default, its task, and a later task."""

    model: list[str]
    task: list[str]
    data: str = "text_data"
    later: tuple[str, ...] = ()
    keep: tuple[str, ...] = ("--decoder-keep", "0,2")


CHANGED = {
    "transformer": Changed(
        [
            *ENCODER,
            *DECODER,
            *FORMS,
            *DROPOUT,
            "--max-source-positions",
            "30",
            "--max-target-positions",
            "28",
        ],
        ["--task", "translation", *LANGUAGES, "--criterion", "cross_entropy"],
        "data",
        keep=("--encoder-keep", "0,2", "--decoder-keep", "1"),
    ),
    "transformer_lm": Changed(
        [
            *DECODER,
            *DROPOUT,
            "--decoder-input-dim",
            "24",
            "--decoder-output-dim",
            "24",
            "--layernorm-embedding",
        ],
        ["--task", "language_modeling", "--criterion", "cross_entropy", *TEXT],
        later=("--tokens-per-sample", "24"),
    ),
    "roberta": Changed(
        [
            *ENCODER,
            *DROPOUT,
            "--pooler-dropout",
            "0.25",
            "--untie-weights-roberta",
            "--max-positions",
            "40",
        ],
        ["--task", "masked_lm", "--criterion", "masked_lm", *TEXT],
        later=("--tokens-per-sample", "24"),
        keep=("--encoder-keep", "0,2"),
    ),
}


@pytest.mark.parametrize(
    "family", ["transformer", "transformer_lm", pytest.param("roberta", marks=pytest.mark.slow)]
)
def test_the_printed_words_start_stock_fairseq_whatever_was_changed(
    family: str, request: pytest.FixtureRequest, command: Command, tmp_path: Path
) -> None:
    """At learning rate 0 the weights stay, and the options are the pruned file's."""
    changed = CHANGED[family]
    data = request.getfixturevalue(changed.data)
    full, small, tuned = tmp_path / "full", tmp_path / "small.pt", tmp_path / "tuned"
    ours = ["--user-dir", USER_DIR, "--arch", f"layerdrop_{family}", *changed.model, "--lr", "0.01"]
    fairseq("train", data, *COMMON, *changed.task, *ours, "--save-dir", full)
    _, printed, _ = command("prune", full / "checkpoint_last.pt", small, *changed.keep, "--json")
    words = shlex.split(json.loads(printed)["training_flags"])
    rest = [*changed.later, "--lr", "0", "--save-dir", tuned]
    output = fairseq("train", data, *COMMON, *changed.task, *words, *rest)
    assert f"loading pretrained model from {small}" in output
    assert_same_tensors(weights(tuned / "checkpoint_last.pt"), weights(small))
    before, after = options(small), options(tuned / "checkpoint_last.pt")
    shared = before.keys() & after.keys()
    assert shared >= {word[2:].replace("-", "_") for word in changed.model if word.startswith("--")}
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}


def options(checkpoint: Path) -> dict[str, Any]:
    """The options of a model that say what it computes."""
    model = plain(load(checkpoint)["cfg"]["model"])
    return {
        name: value
        for name, value in model.items()
        if value is not None and name != "tokens_per_sample"
    }


# --restore-file


@pytest.fixture(scope="module")
def small(pruned: Callable[..., Path]) -> Path:
    """The trained model cut to 2+2 layers, the optimizer's state left out."""
    return pruned(*KEEP)


FORM = ["--arch", "transformer", "--encoder-layers", "2", "--decoder-layers", "2"]


def restored(data: Path, folder: Path, *flags: object) -> str:
    """Train for one update."""
    return train(data, folder, *FORM, *STYLE, *flags, "--max-update", "1")


def test_restore_file_goes_on_in_the_epoch_of_the_full_model(
    data: Path, small: Path, tmp_path: Path
) -> None:
    """The file says in which epoch it was written: with --max-epoch 20 nothing would be trained."""
    output = restored(data, tmp_path, "--restore-file", small)
    assert "begin training epoch 21" in output
    assert load(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 1


def test_restore_file_with_a_new_data_iterator_is_fine_tuning(
    data: Path, small: Path, tmp_path: Path
) -> None:
    output = restored(data, tmp_path / "a", "--restore-file", small, "--reset-dataloader")
    assert "begin training epoch 1\n" in output
    restored(data, tmp_path / "b", "--finetune-from-model", small)
    one, two = (weights(tmp_path / name / "checkpoint_last.pt") for name in "ab")
    assert_same_tensors(one, two)
    assert any(not torch.equal(one[key], tensor) for key, tensor in weights(small).items())


# --load-pretrained-encoder-from and its like

COMPONENT = """
import sys, torch
from fairseq.checkpoint_utils import load_model_ensemble, load_pretrained_component_from_model
(model,), _ = load_model_ensemble([sys.argv[1]])
for name in ("encoder", "decoder"):
    part = getattr(model, name)
    expected = {key: tensor.clone() for key, tensor in part.state_dict().items()}
    for parameter in part.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    load_pretrained_component_from_model(part, sys.argv[1])
    assert all(torch.equal(tensor, expected[key]) for key, tensor in part.state_dict().items())
    print(name, len(part.layers))
"""


def test_an_encoder_and_a_decoder_are_taken_out_of_a_pruned_file(
    small: Path, tmp_path: Path
) -> None:
    """What --load-pretrained-encoder-from, --load-pretrained-decoder-from and their like call."""
    (tmp_path / "component.py").write_text(COMPONENT)
    assert in_stock(str(tmp_path / "component.py"), small).splitlines()[-2:] == [
        "encoder 2",
        "decoder 2",
    ]
