# SPDX-License-Identifier: MIT
"""The facts of a checkpoint, against numbers computed from the sizes of a Transformer."""

import json
from typing import Any

import pytest
import torch
from builders import DIM, FFN, WORDS, model_state, training_checkpoint

from fairseq_layerdrop.pruning.inspection import describe, parameter_sizes
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import stack_depths
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

ATTENTION = 4 * (DIM * DIM + DIM)
NORM = 2 * DIM
FEED_FORWARD = 2 * DIM * FFN + FFN + DIM
ENCODER_LAYER = ATTENTION + FEED_FORWARD + 2 * NORM
DECODER_LAYER = 2 * ATTENTION + FEED_FORWARD + 3 * NORM


def prune(checkpoint: dict[str, Any], text: str) -> dict[str, Any]:
    plan = PruningPlan.parse(text, stack_depths(checkpoint["model"]))
    return prune_checkpoint(checkpoint, plan, source="digest", version="0")


@pytest.mark.parametrize(("tied", "tables"), [(True, 2), (False, 3)])
def test_parameters_are_counted_once_and_buffers_never(tied: bool, tables: int) -> None:
    parameters = describe(training_checkpoint(6, 3, tied=tied))["parameters"]
    embeddings, layers = tables * WORDS * DIM, 6 * ENCODER_LAYER + 3 * DECODER_LAYER
    assert parameters == {"embeddings": embeddings, "layers": layers, "total": embeddings + layers + 2 * NORM}


def test_the_stacks() -> None:
    stacks = describe(training_checkpoint(6, 3))["stacks"]
    assert stacks == {
        "encoder": {
            "depth": 6,
            "parameters_per_layer": [ENCODER_LAYER] * 6,
            "layerdrop": 0.2,
            "shared": [],
            "layers_of_the_original": None,
        },
        "decoder": {
            "depth": 3,
            "parameters_per_layer": [DECODER_LAYER] * 3,
            "layerdrop": 0.3,
            "shared": [],
            "layers_of_the_original": None,
        },
    }


def test_a_model_of_one_stack() -> None:
    assert list(describe(training_checkpoint(0, 4))["stacks"]) == ["decoder"]


@pytest.mark.parametrize("namespace", [False, True])
def test_names_and_updates(namespace: bool) -> None:
    facts = describe(training_checkpoint(namespace=namespace))
    assert (facts["architecture"], facts["task"], facts["updates"]) == ("transformer", "translation", 1200)


def test_what_training_left_in_it() -> None:
    full = training_checkpoint(ema=True)
    assert (describe(full)["optimizer_state"], describe(full)["ema"]) == (True, True)
    bare = prune(training_checkpoint(), "all/all")
    assert (describe(bare)["optimizer_state"], describe(bare)["ema"]) == (False, False)


def test_number_formats() -> None:
    checkpoint = training_checkpoint()
    checkpoint["model"] = {key: tensor.half() for key, tensor in checkpoint["model"].items()}
    checkpoint["model"]["encoder.layer_norm.bias"] = torch.zeros(DIM)
    assert describe(checkpoint)["dtypes"] == ["float16", "float32"]


def test_classification_heads_are_named_once_each() -> None:
    checkpoint = training_checkpoint()
    for head in ("sst", "mnli"):
        checkpoint["model"] |= {
            f"classification_heads.{head}.dense.weight": torch.zeros(2, 2),
            f"classification_heads.{head}.out_proj.bias": torch.zeros(2),
        }
    assert describe(checkpoint)["heads"] == ["mnli", "sst"]


def test_stale_copies_do_not_count() -> None:
    state = model_state()
    stale = {"encoder.layers.0.fc1_weight": torch.zeros(100)}
    assert parameter_sizes(state | stale) == parameter_sizes(state)


def test_the_original_layers_are_known_through_two_prunings() -> None:
    small = prune(prune(training_checkpoint(), "0,2,4,5/1,3"), "1,3/all")
    facts = describe(small)
    assert facts["stacks"]["encoder"]["layers_of_the_original"] == [2, 5]
    assert facts["stacks"]["decoder"]["layers_of_the_original"] == [1, 3]
    assert len(facts["provenance"]["steps"]) == 2


def test_the_rates_are_those_of_the_training_after_pruning_too() -> None:
    stacks = describe(prune(training_checkpoint(), "0/0"))["stacks"]
    assert (stacks["encoder"]["layerdrop"], stacks["decoder"]["layerdrop"]) == (0.2, 0.3)


def test_facts_are_json() -> None:
    for checkpoint in (training_checkpoint(namespace=True, ema=True), prune(training_checkpoint(), "0/0")):
        facts = describe(checkpoint)
        assert json.loads(json.dumps(facts)) == facts


def test_facts_need_neither_history_nor_extra_state() -> None:
    bare = {key: training_checkpoint()[key] for key in ("cfg", "model")}
    assert describe(bare)["updates"] is None
