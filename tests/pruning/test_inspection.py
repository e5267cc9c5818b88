# SPDX-License-Identifier: MIT
"""The facts of a checkpoint, against numbers computed from the sizes of a Transformer."""

import json
import math
from typing import Any

import pytest
import torch
from builders import (
    DIM,
    FFN,
    WHERE,
    WORDS,
    cut,
    family_checkpoint,
    layer_values,
    model_state,
    share,
    training_checkpoint,
)

from fairseq_layerdrop.pruning.inspection import describe, not_finite, parameter_sizes
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import stack_depths

ATTENTION = 4 * (DIM * DIM + DIM)
NORM = 2 * DIM
FEED_FORWARD = 2 * DIM * FFN + FFN + DIM
ENCODER_LAYER = ATTENTION + FEED_FORWARD + 2 * NORM
DECODER_LAYER = 2 * ATTENTION + FEED_FORWARD + 3 * NORM


def prune(checkpoint: dict[str, Any], text: str) -> dict[str, Any]:
    plan = PruningPlan.parse(text, stack_depths(checkpoint["model"]))
    return cut(checkpoint, plan, source="digest", version="0")


@pytest.mark.parametrize(("tied", "tables"), [(True, 2), (False, 3)])
def test_parameters_are_counted_once_and_buffers_never(tied: bool, tables: int) -> None:
    parameters = describe(Source.of(training_checkpoint(6, 3, tied=tied)))["parameters"]
    embeddings, layers = tables * WORDS * DIM, 6 * ENCODER_LAYER + 3 * DECODER_LAYER
    assert parameters == {
        "embeddings": embeddings,
        "layers": layers,
        "total": embeddings + layers + 2 * NORM,
    }


def test_the_stacks() -> None:
    stacks = describe(Source.of(training_checkpoint(6, 3)))["stacks"]
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
    assert list(describe(Source.of(training_checkpoint(0, 4)))["stacks"]) == ["decoder"]


@pytest.mark.parametrize("namespace", [False, True])
def test_names_and_updates(namespace: bool) -> None:
    facts = describe(Source.of(training_checkpoint(namespace=namespace)))
    assert (facts["architecture"], facts["task"], facts["updates"]) == (
        "transformer",
        "translation",
        1200,
    )


def test_what_training_left_in_it() -> None:
    full = training_checkpoint(ema=True)
    assert (describe(Source.of(full))["optimizer_state"], describe(Source.of(full))["ema"]) == (
        True,
        True,
    )
    bare = prune(training_checkpoint(), "all/all")
    assert (describe(Source.of(bare))["optimizer_state"], describe(Source.of(bare))["ema"]) == (
        False,
        False,
    )


def test_number_formats() -> None:
    checkpoint = training_checkpoint()
    checkpoint["model"] = {key: tensor.half() for key, tensor in checkpoint["model"].items()}
    checkpoint["model"]["encoder.layer_norm.bias"] = torch.zeros(DIM)
    assert describe(Source.of(checkpoint))["dtypes"] == ["float16", "float32"]


def test_classification_heads_are_named_once_each() -> None:
    checkpoint = training_checkpoint()
    for head in ("sst", "mnli"):
        checkpoint["model"] |= {
            f"classification_heads.{head}.dense.weight": torch.zeros(2, 2),
            f"classification_heads.{head}.out_proj.bias": torch.zeros(2),
        }
    assert describe(Source.of(checkpoint))["heads"] == ["mnli", "sst"]


def test_stale_copies_do_not_count() -> None:
    state = model_state()
    stale = {"encoder.layers.0.fc1_weight": torch.zeros(100)}
    assert parameter_sizes(
        Source.of({**training_checkpoint(), "model": state | stale}).state
    ) == parameter_sizes(state)


def test_the_original_layers_are_known_through_two_prunings() -> None:
    small = prune(prune(training_checkpoint(), "0,2,4,5/1,3"), "1,3/all")
    facts = describe(Source.of(small))
    assert facts["stacks"]["encoder"]["layers_of_the_original"] == [2, 5]
    assert facts["stacks"]["decoder"]["layers_of_the_original"] == [1, 3]
    assert len(facts["provenance"]["steps"]) == 2


def test_the_rates_are_those_of_the_training_after_pruning_too() -> None:
    stacks = describe(Source.of(prune(training_checkpoint(), "0/0")))["stacks"]
    assert (stacks["encoder"]["layerdrop"], stacks["decoder"]["layerdrop"]) == (0.2, 0.3)


def test_facts_are_json() -> None:
    for checkpoint in (
        training_checkpoint(namespace=True, ema=True),
        prune(training_checkpoint(), "0/0"),
    ):
        facts = describe(Source.of(checkpoint))
        assert json.loads(json.dumps(facts)) == facts


def test_facts_need_neither_history_nor_extra_state() -> None:
    bare = {key: training_checkpoint()[key] for key in ("cfg", "model")}
    assert describe(Source.of(bare))["updates"] is None


SPEECH = ("wav2vec2", "wav2vec_ctc", "wav2vec_seq2seq")


@pytest.mark.parametrize("family", WHERE)
def test_the_stacks_of_any_family(family: str) -> None:
    facts = describe(Source.of(family_checkpoint(family, 6, 3)))
    layer = {"encoder": ENCODER_LAYER, "decoder": DECODER_LAYER}
    depths, rates = {"encoder": 6, "decoder": 3}, {"encoder": 0.2, "decoder": 0.3}
    for stack, modules in WHERE[family].items():
        about = facts["stacks"].pop(stack)
        assert about["parameters_per_layer"] == [layer[stack] * len(modules)] * depths[stack]
        assert (about["depth"], about["layerdrop"], about["shared"]) == (
            depths[stack],
            rates[stack],
            [],
        )
    assert facts["stacks"] == {}
    assert facts["architecture"] == family
    assert sorted(facts["other_lists"].values()) == [7] * (family in SPEECH)
    assert facts["heads"] == ["mnli"] * (family == "roberta")


@pytest.mark.parametrize("family", WHERE)
def test_the_original_layers_of_any_family_are_known(family: str) -> None:
    checkpoint = family_checkpoint(family)
    plan = PruningPlan.from_specs(
        dict.fromkeys(WHERE[family], "1,4"), stack_depths(checkpoint["model"])
    )
    small = cut(checkpoint, plan, source="digest", version="0")
    stacks = describe(Source.of(small))["stacks"]
    for stack, modules in WHERE[family].items():
        assert (
            stacks[stack]["layers_of_the_original"]
            == layer_values(small["model"], modules[0])
            == [1, 4]
        )
        assert stacks[stack]["layerdrop"] == (0.2 if stack == "encoder" else 0.3)


def test_a_stack_that_languages_share_counts_once() -> None:
    checkpoint = family_checkpoint("multilingual_transformer")
    state = checkpoint["model"]
    state |= {
        key: state[key.replace("fr-en", "de-en")] for key in state if ".fr-en.encoder." in key
    }
    stacks = describe(Source.of(checkpoint))["stacks"]
    assert stacks["encoder"]["parameters_per_layer"] == [ENCODER_LAYER] * 6
    assert stacks["decoder"]["parameters_per_layer"] == [2 * DECODER_LAYER] * 6
    assert (stacks["encoder"]["shared"], stacks["decoder"]["shared"]) == ([], [])


def test_layers_that_share_their_weights_are_named_and_count_once() -> None:
    checkpoint = training_checkpoint(6, 4)
    checkpoint["model"] = share(checkpoint["model"], "encoder.layers", [(0, 2, 4), (1, 3)])
    facts = json.loads(json.dumps(describe(Source.of(checkpoint))))
    assert facts["stacks"]["encoder"]["shared"] == [[0, 2, 4], [1, 3]]
    assert facts["stacks"]["decoder"]["shared"] == []
    assert facts["stacks"]["encoder"]["parameters_per_layer"] == [
        ENCODER_LAYER,
        ENCODER_LAYER,
        0,
        0,
        0,
        ENCODER_LAYER,
    ]
    assert facts["parameters"]["layers"] == 3 * ENCODER_LAYER + 4 * DECODER_LAYER


def test_lists_of_layers_that_are_no_stacks_are_named_with_their_length() -> None:
    checkpoint = training_checkpoint()
    checkpoint["model"] |= {
        f"encoder.adaptor.layers.{i}.0.weight": torch.zeros(2) for i in range(3)
    }
    assert describe(Source.of(checkpoint))["other_lists"] == {"encoder.adaptor.layers": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_with_a_nan_or_an_infinity_are_named(dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in training_checkpoint()["model"].items()}
    assert not_finite(state) == []
    state["encoder.layers.1.fc1.weight"].view(-1)[-1] = math.nan
    state["decoder.layers.2.fc2.bias"][0] = -math.inf
    state["decoder.layers.0.fc1.weight"] = torch.full(
        (64, 64), torch.finfo(dtype).max, dtype=dtype
    )  # its sum runs over
    assert not_finite(state) == ["encoder.layers.1.fc1.weight", "decoder.layers.2.fc2.bias"]
