# SPDX-License-Identifier: MIT
"""Where the layers are in every family, and which share weights and so stay together."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    ENCODER_LAYER,
    WHERE,
    cut,
    family_checkpoint,
    family_state,
    layer_list,
    layer_values,
    model_state,
    share,
    training_checkpoint,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fairseq_layerdrop.checkpoint import load, save
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan
from fairseq_layerdrop.pruning.stacks import (
    Place,
    check_chunks,
    chunks,
    locate,
    other_lists,
    prune_state,
    stack_depths,
)
from fairseq_layerdrop.pruning.surgery import check_surgery

every_family = pytest.mark.parametrize("family", WHERE)
PATHS = sorted(
    {
        f"{module}.layers"
        for stacks in WHERE.values()
        for modules in stacks.values()
        for module in modules
    }
)


def plan_of(text: str, state: dict[str, Tensor]) -> PruningPlan:
    return PruningPlan.parse(text, stack_depths(state))


# Where the layers are


@pytest.mark.parametrize(
    ("key", "place", "stack"),
    [
        ("encoder.layers.3.fc1.weight", ("encoder.layers", 3, "fc1.weight"), "encoder"),
        (
            "decoder.layers.11.self_attn.k_proj.bias",
            ("decoder.layers", 11, "self_attn.k_proj.bias"),
            "decoder",
        ),
        (
            "encoder.sentence_encoder.layers.0.fc2.bias",
            ("encoder.sentence_encoder.layers", 0, "fc2.bias"),
            "encoder",
        ),
        ("models.de-en.encoder.layers.5.x", ("models.de-en.encoder.layers", 5, "x"), "encoder"),
        (
            "models.fr-en.decoder.layers.10.x.y",
            ("models.fr-en.decoder.layers", 10, "x.y"),
            "decoder",
        ),
        (
            "w2v_encoder.w2v_model.encoder.layers.23.x",
            ("w2v_encoder.w2v_model.encoder.layers", 23, "x"),
            "encoder",
        ),
        (
            "encoder.w2v_model.encoder.layers.7.x",
            ("encoder.w2v_model.encoder.layers", 7, "x"),
            "encoder",
        ),
        (
            "encoder.layers.4.experts.layers.3.w",
            ("encoder.layers", 4, "experts.layers.3.w"),
            "encoder",
        ),
        (
            "decoder.layers.4.encoder.layers.3.w",
            ("decoder.layers", 4, "encoder.layers.3.w"),
            "decoder",
        ),
    ],
)
def test_the_place_of_a_key(key: str, place: tuple[str, int, str], stack: str) -> None:
    found = locate(key)
    assert found == place
    assert (found.stack, found.key) == (stack, key)


@pytest.mark.parametrize(
    "key",
    [
        "encoder.layer_norm.weight",
        "encoder.layers_norm.5.weight",
        "encoder.layers.5",
        "encoder.layers.five.weight",
        "encoder.layers.-1.weight",
        "encoder.adaptor.layers.5.fc1.weight",
        "encoder.adapter.layers.5.fc1.weight",
        "models.de-en.encoder.adaptor.layers.5.fc1.weight",
        "models.de.en.encoder.layers.5.fc1.weight",
        "sub.decoder.layers.5.fc1.weight",
        "my_encoder.layers.5.fc1.weight",
        "decoder.sentence_encoder.layers.5.fc1.weight",
        "decoder.w2v_model.encoder.layers.5.fc1.weight",
        "w2v_encoder.encoder.layers.5.fc1.weight",
        "feature_extractor.conv_layers.5.0.weight",
        "w2v_encoder.w2v_model.feature_extractor.conv_layers.5.0.weight",
        "encoder.conv_layers.5.0.weight",
    ],
)
def test_what_belongs_to_no_stack(key: str) -> None:
    assert locate(key) is None


@given(
    path=st.sampled_from(PATHS),
    layer=st.integers(0, 200),
    name=st.from_regex(r"\w+(\.\w+)*", fullmatch=True),
)
def test_a_place_and_its_key_are_the_same_thing(path: str, layer: int, name: str) -> None:
    place = Place(path, layer, name)
    assert locate(place.key) == place


@every_family
def test_the_layers_of_every_family_are_found_and_nothing_else(family: str) -> None:
    state = family_state(family)
    for stack, modules in WHERE[family].items():
        found = [key for key in state if (place := locate(key)) and place.stack == stack]
        assert found == [
            key for key in state if key.startswith(tuple(f"{module}.layers." for module in modules))
        ]
        assert found != []


@every_family
def test_the_depths_of_every_family(family: str) -> None:
    depths = {"encoder": 12, "decoder": 3}
    wanted = [(stack, depths[stack]) for stack in STACKS if stack in WHERE[family]]
    assert list(stack_depths(family_state(family, **depths)).items()) == wanted


@every_family
def test_every_family_is_pruned_where_its_layers_are_and_nowhere_else(family: str) -> None:
    state = family_state(family)
    specs = {"encoder": "1,2,5", "decoder": "0,4"}
    plan = PruningPlan.from_specs(
        {stack: specs[stack] for stack in WHERE[family]}, stack_depths(state)
    )
    small = prune_state(state, plan)
    kept = {"encoder": [1, 2, 5], "decoder": [0, 4]}
    for stack, modules in WHERE[family].items():
        for module in modules:
            assert layer_values(small, module) == kept[stack]
    assert list(small) == list(family_state(family, 3, 2))
    assert all(small[key] is state[key] for key in state if locate(key) is None)
    check_surgery(state, small, plan)


@every_family
def test_a_pruned_checkpoint_of_every_family_has_the_depths_that_it_says(family: str) -> None:
    checkpoint = family_checkpoint(family)
    plan = PruningPlan.from_specs(
        dict.fromkeys(WHERE[family], "0,3"), stack_depths(checkpoint["model"])
    )
    small = cut(checkpoint, plan, source="", version="")
    model = small["cfg"]["model"]
    inner = model.get("w2v_args", {"model": model})["model"]
    told = {"encoder": inner.get("encoder_layers"), "decoder": model.get("decoder_layers")}
    assert {stack: depth for stack, depth in told.items() if depth is not None} == stack_depths(
        small["model"]
    )
    assert set(stack_depths(small["model"]).values()) == {2}


def test_the_encoder_comes_first_wherever_it_is_in_the_file() -> None:
    state = dict(reversed(model_state(6, 3).items()))
    assert list(stack_depths(state).items()) == [("encoder", 6), ("decoder", 3)]


def without(state: dict[str, Tensor], *layers: str) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(tuple(f"{layer}." for layer in layers))
    }


def test_a_gap_in_one_language_is_named_with_its_language() -> None:
    state = without(
        family_state("multilingual_transformer"),
        *(f"models.fr-en.encoder.layers.{i}" for i in (1, 3)),
    )
    with pytest.raises(ValueError, match=r"models\.fr-en\.encoder\.layers lacks its layers 1,3$"):
        stack_depths(state)


@pytest.mark.parametrize("family", ["transformer", "roberta", "wav2vec_ctc"])
def test_a_gap_is_named_with_its_stack(family: str) -> None:
    module = WHERE[family]["encoder"][0]
    name = "encoder" if family == "transformer" else f"{module}.layers"
    with pytest.raises(ValueError, match=f"the {name} lacks its layers 0$"):
        stack_depths(without(family_state(family), f"{module}.layers.0"))


def test_languages_of_different_depths_are_refused_by_name() -> None:
    state = without(
        family_state("multilingual_transformer"),
        *(f"models.fr-en.decoder.layers.{i}" for i in (4, 5)),
    )
    with pytest.raises(
        ValueError,
        match=r"one depth.*models\.de-en\.decoder\.layers 6.*models\.fr-en\.decoder\.layers 4",
    ):
        stack_depths(state)


@pytest.mark.parametrize(
    "state", [{}, {"w": 0}, {"encoder.adaptor.layers.0.w": 0}, {"encoder.layers": 0}], ids=str
)
def test_a_model_without_stacks_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no layers"):
        stack_depths(state)


# Lists that are no stacks


@pytest.mark.parametrize(
    ("keys", "lists"),
    [
        (
            ["encoder.adaptor.layers.0.0.weight", "encoder.adaptor.layers.1.0.weight"],
            {"encoder.adaptor.layers": 2},
        ),
        (
            [f"feature_extractor.conv_layers.{i}.0.weight" for i in range(12)],
            {"feature_extractor.conv_layers": 12},
        ),
        (["layers.0.weight", "layers.1.weight"], {"layers": 2}),
        (["head.0.weight", "head.2.weight"], {}),  # a sequence with something between
        (["head.0.weight", "head.1.weight", "head.1.bias"], {}),  # of two kinds
        (["encoder.adaptor.layers.0.layers.0.w", "encoder.adaptor.layers.0.layers.1.w"], {}),
        (["encoder.layers.0.experts.layers.0.w", "encoder.layers.0.experts.layers.1.w"], {}),
        ([f"decoder.embed_tokens.embeddings.{i}.0.weight" for i in range(3)], {}),
        ([f"decoder.adaptive_softmax.tail.{i}.2.weight" for i in range(2)], {}),
        (
            [
                "encoder.layers_norm.5.weight",
                "encoder.layer_norm.weight",
                "heads.0.weight",
                "encoder.layers.0.w",
            ],
            {},
        ),
    ],
    ids=str,
)
def test_other_lists_and_their_lengths(keys: list[str], lists: dict[str, int]) -> None:
    assert other_lists(keys) == lists


@every_family
def test_of_every_family_only_the_convolutions_of_speech_are_another_list(family: str) -> None:
    found = other_lists(family_state(family))
    if family.startswith("wav2vec"):
        ((path, length),) = found.items()
        assert (path.endswith("feature_extractor.conv_layers"), length) == (True, 7)
    else:
        assert found == {}


# Layers that share their weights


@pytest.mark.parametrize(
    "groups",
    [
        [(0, 1, 2, 3, 4, 5)],
        [(0, 1), (2, 3), (4, 5)],
        [(0, 3), (1, 4), (2, 5)],
        [(0, 2), (1, 3)],
        [(1, 5)],
    ],
)
@pytest.mark.parametrize(
    "family", ["transformer", "roberta", "wav2vec_seq2seq", "multilingual_transformer"]
)
def test_layers_that_share_all_their_weights_are_a_chunk(
    family: str, groups: list[tuple[int, ...]]
) -> None:
    state = family_state(family)
    for module in WHERE[family]["encoder"]:
        state = share(state, f"{module}.layers", groups)
    assert chunks(state) == {"encoder": groups}


def test_each_stack_has_its_own_chunks() -> None:
    state = share(share(model_state(), "encoder.layers", [(0, 1)]), "decoder.layers", [(2, 3, 4)])
    assert chunks(state) == {"encoder": [(0, 1)], "decoder": [(2, 3, 4)]}


@pytest.mark.parametrize(
    "part", ["self_attn.", "fc1.weight", "self_attn_layer_norm.bias", "final_layer_norm."]
)
def test_layers_that_share_some_of_their_weights_are_no_chunk(part: str) -> None:
    assert chunks(share(model_state(), "encoder.layers", [(0, 1), (2, 3)], part)) == {}


@pytest.mark.parametrize("name", ENCODER_LAYER)
def test_layers_that_share_all_but_one_of_their_weights_are_no_chunk(name: str) -> None:
    state = share(model_state(), "encoder.layers", [(0, 1), (2, 3)])
    state[f"encoder.layers.1.{name}"] = state[f"encoder.layers.1.{name}"].clone()
    assert chunks(state) == {"encoder": [(2, 3)]}


def test_layers_of_equal_weights_are_no_chunk() -> None:
    state = {key: torch.zeros_like(tensor) for key, tensor in model_state().items()}
    assert chunks(state) == {}


def one_encoder_for_all(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The languages of a multilingual model share their encoder."""
    return {
        key: state[key.replace("models.fr-en.encoder", "models.de-en.encoder")] for key in state
    }


def test_a_stack_that_languages_share_is_no_chunk() -> None:
    state = one_encoder_for_all(family_state("multilingual_transformer"))
    assert chunks(state) == {}
    check_chunks(state, plan_of("0,3/5", state))


def test_a_chunk_of_one_language_is_one_of_the_stack() -> None:
    state = share(family_state("multilingual_transformer"), "models.fr-en.decoder.layers", [(0, 1)])
    assert chunks(state) == {"decoder": [(0, 1)]}


def test_layers_of_different_stacks_are_no_chunk() -> None:
    state = layer_list("decoder.layers", 2)
    state |= {key.replace("decoder", "encoder"): tensor for key, tensor in state.items()}
    assert chunks(state) == {}


PAIRS = [(0, 1), (2, 3), (4, 5)]
CYCLES = [(0, 2, 4), (1, 3, 5)]


@pytest.mark.parametrize(
    ("groups", "spec"),
    [
        (PAIRS, "all"),
        (PAIRS, "0,1"),
        (PAIRS, "2-5"),
        (PAIRS, "0,1,4,5"),
        (CYCLES, "every:2"),
        (CYCLES, "1,3,5"),
        ([(1, 4)], "0,2,3"),
        ([(1, 4)], "1,4"),
        ([(0, 1, 2, 3, 4, 5)], "all"),
    ],
)
def test_a_plan_may_keep_or_drop_whole_chunks(groups: list[tuple[int, ...]], spec: str) -> None:
    state = share(model_state(), "decoder.layers", groups)
    check_chunks(state, plan_of(f"every:2/{spec}", state))


@pytest.mark.parametrize(
    ("groups", "spec", "named"),
    [
        (PAIRS, "0,1,2", ["the layers 2,3 share their weights, keep all or none of them; got 2"]),
        (
            PAIRS,
            "every:2",
            ["the layers 0,1 share", "the layers 2,3 share", "the layers 4,5 share"],
        ),
        (
            CYCLES,
            "0,1,3,4,5",
            ["the layers 0,2,4 share their weights, keep all or none of them; got 0,4"],
        ),
        ([(0, 1, 2, 3, 4, 5)], "first:3", ["the layers 0,1,2,3,4,5 share", "got 0,1,2"]),
    ],
)
def test_a_plan_that_parts_chunks_is_refused_naming_each(
    groups: list[tuple[int, ...]], spec: str, named: Sequence[str]
) -> None:
    state = share(model_state(), "decoder.layers", groups)
    with pytest.raises(ValueError, match=r"^decoder: ") as error:
        check_chunks(state, plan_of(f"0/{spec}", state))
    assert [text for text in named if text not in str(error.value)] == []
    assert str(error.value).count("share their weights") == sum("share" in text for text in named)


def test_chunks_parted_in_both_stacks_are_one_message() -> None:
    state = share(share(model_state(), "encoder.layers", [(0, 1)]), "decoder.layers", [(2, 3, 4)])
    with pytest.raises(
        ValueError,
        match=r"encoder: the layers 0,1 share.*; decoder: the layers 2,3,4 share.* got 3,4$",
    ):
        check_chunks(state, plan_of("1/3,4", state))


def test_a_stack_that_the_plan_does_not_name_may_have_chunks() -> None:
    state = share(model_state(), "encoder.layers", PAIRS)
    plan = PruningPlan(decoder=plan_of("all/0", state).decoder)
    check_chunks(state, plan)


def test_surgery_parts_no_chunk() -> None:
    checkpoint = training_checkpoint()
    checkpoint["model"] = share(checkpoint["model"], "encoder.layers", PAIRS)
    with pytest.raises(ValueError, match="encoder: the layers 2,3 share"):
        cut(checkpoint, plan_of("0,1,3/all", checkpoint["model"]), source="", version="")


def old_format(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The attentions' projections in one matrix, as in 2019; shared where the layers are."""
    packed: dict[int, Tensor] = {}
    old = {}
    for key, tensor in state.items():
        if "encoder.layers" in key and ".self_attn.q_proj." in key:
            parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            old[key.replace("q_proj.", "in_proj_")] = packed.setdefault(
                tensor.data_ptr(), torch.cat(parts)
            )
        elif not ("encoder.layers" in key and "_proj." in key and "out_proj" not in key):
            old[key] = tensor
    return old


def unique_bytes(state: dict[str, Tensor]) -> int:
    return sum(
        {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in state.values()
        }.values()
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("of_2019", [False, True])
def test_what_was_shared_is_shared_in_the_pruned_file(
    tmp_path: Path, of_2019: bool, zipped: bool
) -> None:
    shared = share(model_state(), "encoder.layers", PAIRS)
    source = training_checkpoint() | {"model": old_format(shared) if of_2019 else shared}
    torch.save(source, tmp_path / "full.pt", _use_new_zipfile_serialization=zipped)
    plan = plan_of("0,1,4,5/0", model_state())
    save(
        cut(load(tmp_path / "full.pt"), plan, source="", version=""),
        tmp_path / "small.pt",
    )
    small = load(tmp_path / "small.pt")["model"]
    assert layer_values(small, "encoder") == [0, 0, 4, 4]
    assert chunks(small) == {"encoder": [(0, 1), (2, 3)]}
    assert unique_bytes(small) == unique_bytes(model_state(2, 1))
    assert (
        small["decoder.embed_tokens.weight"].data_ptr()
        == small["decoder.output_projection.weight"].data_ptr()
    )


def from_a_gpu(of: int) -> dict[str, Any]:
    """A file of a model with layers shared in pairs, in which every key has its own tensor."""
    shared = share(model_state(), "encoder.layers", PAIRS)
    full = training_checkpoint() | {
        "model": {key: tensor.clone() for key, tensor in shared.items()}
    }
    full["cfg"]["model"]["share_layers"] = of
    full["extra_state"]["ema"] = {key: tensor.clone() for key, tensor in shared.items()}
    return full


def test_ties_that_a_file_from_a_gpu_has_lost_are_found_again() -> None:
    full = from_a_gpu(of=2)
    before = copy.deepcopy(full)
    small = cut(full, plan_of("0,1,4,5/0", model_state()), source="", version="")
    check_surgery(full["model"], small["model"], plan_of("0,1,4,5/0", model_state()))
    for state in (small["model"], small["extra_state"]["ema"]):
        assert chunks(state) == {"encoder": [(0, 1), (2, 3)]}
        assert unique_bytes(state) == unique_bytes(model_state(2, 1))
        assert (
            state["decoder.embed_tokens.weight"].data_ptr()
            == state["decoder.output_projection.weight"].data_ptr()
        )
    assert {key: t.tolist() for key, t in full["model"].items()} == {
        k: t.tolist() for k, t in before["model"].items()
    }
    with pytest.raises(ValueError, match="encoder: the layers 0,1 share their weights"):
        cut(full, plan_of("0/0", model_state()), source="", version="")


def test_equal_layers_of_a_model_that_shares_none_may_be_parted() -> None:
    small = cut(from_a_gpu(of=1), plan_of("0/0", model_state()), source="", version="")
    assert layer_values(small["model"], "encoder") == [0]
