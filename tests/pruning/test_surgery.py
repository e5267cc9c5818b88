# SPDX-License-Identifier: MIT
"""Surgery: which weights survive, what is left alone, and whether the check would notice."""

import copy
import io
import re
from typing import Any

import pytest
import torch
from builders import (
    WHERE,
    config,
    cut,
    family_checkpoint,
    family_state,
    layer_values,
    model_state,
    share,
    training_checkpoint,
)
from torch import Tensor

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.stacks import locate, prune_state, stack_depths
from fairseq_layerdrop.pruning.surgery import check_surgery, compact
from fairseq_layerdrop.pruning.upgrade import upgrade_state

SIX = {"encoder": 6, "decoder": 6}


def plan_of(text: str, encoder: int = 6, decoder: int = 6) -> PruningPlan:
    return PruningPlan.parse(text, {"encoder": encoder, "decoder": decoder})


def prune(checkpoint: dict[str, Any], text: str, **options: Any) -> dict[str, Any]:
    plan = PruningPlan.parse(text, stack_depths(checkpoint["model"]))
    return cut(checkpoint, plan, **{"source": "digest", "version": "0", **options})


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("text", "encoder", "decoder"),
    [
        ("all/all", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        ("every:2/every:2", [0, 2, 4], [0, 2, 4]),
        ("0,2,4/all", [0, 2, 4], [0, 1, 2, 3, 4, 5]),
        ("all/last:2", [0, 1, 2, 3, 4, 5], [4, 5]),
        ("0,1,5/3", [0, 1, 5], [3]),
    ],
)
def test_the_layers_of_the_plan_survive_in_order(
    text: str, encoder: list[int], decoder: list[int]
) -> None:
    small = prune_state(model_state(), plan_of(text))
    assert layer_values(small, "encoder") == encoder
    assert layer_values(small, "decoder") == decoder


def test_more_than_ten_layers_are_counted_as_numbers() -> None:
    small = prune_state(model_state(24, 12), plan_of("2,10,11,23/1,10", 24, 12))
    assert layer_values(small, "encoder") == [2, 10, 11, 23]
    assert layer_values(small, "decoder") == [1, 10]


def test_the_keys_are_those_of_a_model_of_that_depth_in_its_order() -> None:
    assert list(prune_state(model_state(6, 6), plan_of("1,3,5/2"))) == list(model_state(3, 1))


def test_a_model_of_one_stack() -> None:
    small = prune_state(model_state(0, 8), PruningPlan.parse("0,1,6,7", {"decoder": 8}))
    assert layer_values(small, "decoder") == [0, 1, 6, 7]


def test_a_stack_that_the_plan_does_not_name_stays_whole() -> None:
    plan = PruningPlan(decoder=LayerSelection(6, (0, 2)))
    small = prune_state(model_state(), plan)
    assert layer_values(small, "encoder") == [0, 1, 2, 3, 4, 5]
    check_surgery(model_state(), small, plan)


@pytest.mark.parametrize(
    "key",
    [
        "models.de-en.encoder.adaptor.layers.5.fc1.weight",
        "sub.decoder.layers.5.fc1.weight",
        "encoder.sentence_encoder.layer_norm.weight",
        "encoder.adapter.layers.5.fc1.weight",
        "encoder.layers_norm.5.weight",
        "encoder.layer_norm.weight",
        "decoder.embed_tokens.weight",
    ],
)
def test_keys_outside_the_stacks_are_copied_as_they_are(key: str) -> None:
    state = model_state() | {key: torch.tensor([42.0])}
    small = prune_state(state, plan_of("0/0"))
    assert small[key] is state[key]


def test_layers_within_a_layer_keep_their_numbers() -> None:
    state = {f"encoder.layers.{i}.experts.layers.3.w": torch.tensor([float(i)]) for i in range(6)}
    small = prune_state(state, PruningPlan.parse("1,4", {"encoder": 6}))
    assert {key: tensor.item() for key, tensor in small.items()} == {
        "encoder.layers.0.experts.layers.3.w": 1.0,
        "encoder.layers.1.experts.layers.3.w": 4.0,
    }


@pytest.mark.parametrize(
    ("key", "at"),
    [
        ("encoder.layers.3.fc1.weight", ("encoder", 3)),
        ("decoder.layers.11.self_attn.k_proj.bias", ("decoder", 11)),
        ("models.de-en.encoder.layers.0.x", ("encoder", 0)),
        ("encoder.layer_norm.weight", None),
    ],
)
def test_the_layer_that_a_key_belongs_to(key: str, at: tuple[str, int] | None) -> None:
    place = locate(key)
    assert (place and (place.stack, place.layer)) == at


def test_depths_are_read_off_the_keys_encoder_first() -> None:
    assert list(stack_depths(reversed(list(model_state(12, 3)))).items()) == [
        ("encoder", 12),
        ("decoder", 3),
    ]


def test_a_state_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no layers"):
        stack_depths({"w": torch.zeros(1)})


def test_a_stack_with_gaps_is_refused() -> None:
    state = {
        key: value
        for key, value in model_state().items()
        if not key.startswith(("decoder.layers.1.", "decoder.layers.3."))
    }
    with pytest.raises(ValueError, match=r"decoder lacks.* 1,3"):
        stack_depths(state)


@pytest.mark.parametrize(
    "name", ["in_proj_weight", "in_proj_bias", "out_proj_weight", "fc1_weight", "fc2_bias"]
)
def test_stale_copies_of_0_12_2_are_left_out(name: str) -> None:
    state = model_state()
    stale = {f"encoder.layers.{i}.{name}": torch.zeros(2) for i in range(6)}
    checkpoint = training_checkpoint() | {"model": state | stale}
    assert list(prune(checkpoint, "all/all")["model"]) == list(state)


def test_the_moving_average_gets_the_same_surgery() -> None:
    checkpoint = training_checkpoint(ema=True)
    checkpoint["extra_state"]["ema"]["encoder.layers.0.fc1_weight"] = torch.zeros(2)
    checkpoint["extra_state"]["ema_fp32_params"] = model_state(tied=False)
    extra = prune(checkpoint, "1,3,5/2")["extra_state"]
    for name in ("ema", "ema_fp32_params"):
        assert layer_values(extra[name], "encoder") == [1, 3, 5]
        assert layer_values(extra[name], "decoder") == [2]
        assert list(extra[name]) == list(model_state(3, 1))


def test_there_is_no_optimizer_state_but_its_history() -> None:
    small = prune(training_checkpoint(), "all/0")
    assert "last_optimizer_state" not in small
    assert small["optimizer_history"][-1]["num_updates"] == 1200


def test_the_full_models_scores_are_not_passed_on() -> None:
    extra = prune(training_checkpoint(), "all/0")["extra_state"]
    assert extra.keys() == {"previous_training_time", "train_iterator", "layerdrop"}


@pytest.mark.parametrize(
    "options", [{}, {"namespace": True}, {"ours": True}, {"ema": True}], ids=str
)
def test_the_source_is_not_changed(options: dict[str, bool]) -> None:
    checkpoint = training_checkpoint(**options)
    before, keys, cfg = (
        copy.deepcopy(checkpoint),
        list(checkpoint["model"]),
        copy.deepcopy(checkpoint["cfg"]),
    )
    prune(checkpoint, "0,2/5", style="namespace")
    assert checkpoint["cfg"] == cfg
    assert list(checkpoint["model"]) == keys
    assert repr(checkpoint) == repr(before)


def test_the_kept_tensors_are_not_copied() -> None:
    checkpoint = training_checkpoint()
    small = prune(checkpoint, "2/2")["model"]
    assert (
        small["encoder.layers.0.fc1.weight"] is checkpoint["model"]["encoder.layers.2.fc1.weight"]
    )


def test_provenance_says_what_was_done_to_what() -> None:
    extra = prune(training_checkpoint(), "0,2,4/5", source="abc", version="1.2")["extra_state"]
    plan = {"encoder": {"depth": 6, "kept": [0, 2, 4]}, "decoder": {"depth": 6, "kept": [5]}}
    assert extra["layerdrop"] == {
        "rates": {"encoder": 0.2, "decoder": 0.3},
        "steps": [{"source": "abc", "plan": plan, "version": "1.2"}],
    }


def test_provenance_is_a_chain_that_begins_with_the_training_rates() -> None:
    once = prune(training_checkpoint(), "0,2,4/all", source="abc")
    twice = prune(once, "0,2/0", source="def")
    provenance = twice["extra_state"]["layerdrop"]
    assert provenance["rates"] == {"encoder": 0.2, "decoder": 0.3}
    assert [step["source"] for step in provenance["steps"]] == ["abc", "def"]
    assert [step["plan"]["encoder"]["depth"] for step in provenance["steps"]] == [6, 3]
    assert len(once["extra_state"]["layerdrop"]["steps"]) == 1


def test_a_checkpoint_without_extra_state_is_pruned_too() -> None:
    checkpoint = {"cfg": config(), "model": model_state(), "extra_state": None}
    assert layer_values(prune(checkpoint, "3/3")["model"], "encoder") == [3]


@pytest.mark.parametrize("namespace", [False, True])
def test_pruning_twice_is_pruning_once(namespace: bool) -> None:
    checkpoint = training_checkpoint(namespace=namespace)
    twice = prune(prune(checkpoint, "0,1,3,5/1-4"), "1,3/0,2")
    once = prune(checkpoint, "1,5/1,3")
    assert equal(once["model"], twice["model"])
    assert once["cfg"] == twice["cfg"]


def test_ties_stay_ties() -> None:
    small = prune(training_checkpoint(tied=True), "0/0")["model"]
    assert (
        small["decoder.embed_tokens.weight"].data_ptr()
        == small["decoder.output_projection.weight"].data_ptr()
    )


def test_ties_between_views_of_a_large_storage_stay_ties_too() -> None:
    view = torch.randn(100, 4)[:10]
    small = compact({"embed": view, "output": view, "other": view.clone()})
    assert small["embed"].data_ptr() == small["output"].data_ptr() != small["other"].data_ptr()
    assert small["embed"].untyped_storage().nbytes() == 10 * 4 * 4


def test_a_slice_of_a_large_storage_does_not_drag_it_into_the_file() -> None:
    checkpoint = training_checkpoint(ema=True)
    large = torch.zeros(500_000)
    checkpoint["model"]["encoder.layer_norm.weight"] = large[1000:1004]
    checkpoint["extra_state"]["ema"]["encoder.layer_norm.weight"] = large[2000:2004]
    file = io.BytesIO()
    torch.save(prune(checkpoint, "0/0"), file)
    assert file.tell() < 200_000 < large.nbytes


def damaged(**changes: Tensor | None) -> dict[str, Tensor]:
    """The state of plan 0,2/5, of which the tensors given differ, or are missing."""
    written = prune_state(upgrade_state(model_state()), plan_of("0,2/5"))
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del written[key]
        else:
            written[key] = tensor
    return written


def test_the_check_passes_what_is_right_however_it_came_about() -> None:
    source = model_state()
    source["encoder.layers.2.fc1.bias"] = torch.full((8,), float("nan"))
    written = copy.deepcopy(prune_state(source, plan_of("0,2/5")))
    check_surgery(source, written, plan_of("0,2/5"))


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_the_check_passes_a_copy_of_a_slice_wherever_it_began(
    start: int, dtype: torch.dtype
) -> None:
    source = model_state()
    source["encoder.layer_norm.weight"] = torch.arange(40).to(dtype)[start : start + 8]
    written = compact(prune_state(source, plan_of("0,2/5")))
    check_surgery(source, written, plan_of("0,2/5"))


@pytest.mark.parametrize(
    "tensor", [torch.tensor(3.0), torch.zeros(0, 4), torch.ones(3, 5).t(), torch.tensor([True])]
)
def test_the_check_takes_tensors_of_any_shape_and_kind(tensor: Tensor) -> None:
    source = model_state() | {"encoder.extra": tensor}
    check_surgery(source, copy.deepcopy(prune_state(source, plan_of("0,2/5"))), plan_of("0,2/5"))


def flipped(tensor: Tensor) -> Tensor:
    bits = tensor.clone().view(torch.int32)
    bits.view(-1)[0] ^= 1
    return bits.view(torch.float32)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("encoder.layers.1.fc1.weight", torch.full((8, 4), 1.0)),  # of layer 1, where 2 is wanted
        ("encoder.layers.1.fc1.weight", None),
        ("decoder.embed_tokens.weight", None),
        ("encoder.layers.2.fc1.weight", torch.full((8, 4), 2.0)),
        ("encoder.layers.0.in_proj_weight", torch.zeros(2)),  # stale, it should have gone
        ("encoder.layer_norm.weight", flipped(torch.ones(4))),
        ("encoder.layer_norm.bias", -torch.zeros(4)),
        ("encoder.layer_norm.bias", torch.full((4,), float("nan"))),
        ("encoder.layer_norm.bias", torch.zeros(4, dtype=torch.float16)),
        ("encoder.layer_norm.bias", torch.zeros(4, 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_check_names_what_differs(key: str, tensor: Tensor | None) -> None:
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        check_surgery(model_state(), damaged(**{key.replace(".", "__"): tensor}), plan_of("0,2/5"))


def test_the_check_names_everything_that_differs() -> None:
    written = damaged(encoder__layers__0__fc1__bias=None, decoder__layer_norm__bias=torch.ones(4))
    with pytest.raises(
        ValueError, match=r"encoder\.layers\.0\.fc1\.bias.*decoder\.layer_norm\.bias"
    ):
        check_surgery(model_state(), written, plan_of("0,2/5"))


def test_the_check_notices_a_lost_tie() -> None:
    written = damaged()
    written["decoder.output_projection.weight"] = written[
        "decoder.output_projection.weight"
    ].clone()
    with pytest.raises(ValueError, match="ties"):
        check_surgery(model_state(), written, plan_of("0,2/5"))


# Other families, and layers that are one

ROBERTA_LAYER = "encoder.sentence_encoder.layers.1.fc1.weight"


def family_plan(family: str, encoder: str, decoder: str, depth: int = 6) -> PruningPlan:
    specs = {"encoder": encoder, "decoder": decoder}
    return PruningPlan.from_specs(
        {s: specs[s] for s in WHERE[family]}, dict.fromkeys(WHERE[family], depth)
    )


def prune_family(checkpoint: dict[str, Any], plan: PruningPlan) -> dict[str, Any]:
    return cut(checkpoint, plan, source="digest", version="0")


@pytest.mark.parametrize("family", WHERE)
def test_pruning_any_family_twice_is_pruning_it_once(family: str) -> None:
    checkpoint = family_checkpoint(family)
    before, cfg = repr(checkpoint), copy.deepcopy(checkpoint["cfg"])
    first = prune_family(checkpoint, family_plan(family, "0,1,3,5", "1,2,3,4"))
    twice = prune_family(first, family_plan(family, "1,3", "0,2", depth=4))
    once = prune_family(checkpoint, family_plan(family, "1,5", "1,3"))
    assert equal(once["model"], twice["model"])
    assert once["cfg"] == twice["cfg"]
    assert (repr(checkpoint), checkpoint["cfg"]) == (before, cfg)


@pytest.mark.parametrize("family", WHERE)
def test_the_moving_average_of_any_family_gets_the_same_surgery(family: str) -> None:
    checkpoint = family_checkpoint(family)
    checkpoint["extra_state"]["ema"] = copy.deepcopy(checkpoint["model"])
    small = prune_family(checkpoint, family_plan(family, "1,4", "5"))
    assert equal(small["extra_state"]["ema"], small["model"])


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        (ROBERTA_LAYER, torch.full((8, 4), 1.0)),  # of layer 1, where 4 is wanted
        (ROBERTA_LAYER, None),
        ("encoder.sentence_encoder.layers.2.fc1.weight", torch.full((8, 4), 2.0)),
        ("encoder.sentence_encoder.layers.0.fc1_weight", torch.zeros(2)),
        ("encoder.lm_head.dense.weight", torch.zeros(4, 4)),
        ("classification_heads.mnli.out_proj.weight", None),
        ("decoder.sentence_encoder.layers.0.fc1.weight", torch.zeros(8, 4)),
    ],
)
def test_the_check_names_what_differs_in_another_family(key: str, tensor: Tensor | None) -> None:
    source, plan = family_state("roberta"), PruningPlan.parse("0,4", {"encoder": 6})
    written = prune_state(source, plan)
    check_surgery(source, written, plan)
    written = {k: v for k, v in written.items() if k != key} | (
        {} if tensor is None else {key: tensor}
    )
    with pytest.raises(ValueError, match=rf"differs from its source in {re.escape(key)};"):
        check_surgery(source, written, plan)


@pytest.mark.parametrize("language", ["de-en", "fr-en"])
def test_the_check_looks_at_every_language(language: str) -> None:
    source, plan = family_state("multilingual_transformer"), plan_of("0,4/1")
    key = f"models.{language}.encoder.layers.1.fc1.bias"
    written = prune_state(source, plan) | {key: torch.full((8,), 1.0)}
    with pytest.raises(ValueError, match=re.escape(key)):
        check_surgery(source, written, plan)


def test_the_check_notices_that_layers_are_shared_no_more() -> None:
    source, plan = share(model_state(), "encoder.layers", [(0, 1), (2, 3)]), plan_of("0-3/0")
    written = prune_state(source, plan)
    check_surgery(source, written, plan)
    with pytest.raises(ValueError, match="lost ties"):
        check_surgery(source, written | {"encoder.layers.1.fc1.bias": torch.zeros(8)}, plan)


def test_a_plan_that_removes_the_alignment_is_refused_before_anything_is_made() -> None:
    checkpoint = training_checkpoint()
    checkpoint["cfg"]["model"]["alignment_layer"] = 4
    with pytest.raises(ValueError, match="the alignment is layer 4's attention"):
        prune(checkpoint, "all/0,1")
    assert prune(checkpoint, "all/1,4")["cfg"]["model"]["alignment_layer"] == 1


@pytest.mark.parametrize("state", ["no key", None])
def test_an_optimizers_state_that_is_not_there_cannot_be_kept(state: Any) -> None:
    checkpoint = training_checkpoint()
    checkpoint.pop("last_optimizer_state")
    if state is None:
        checkpoint["last_optimizer_state"] = None
    with pytest.raises(ValueError, match="an optimizer's state in the checkpoint, got none"):
        prune(checkpoint, "all/0", keep_optimizer=True)
    assert "last_optimizer_state" not in prune(checkpoint, "all/0")
