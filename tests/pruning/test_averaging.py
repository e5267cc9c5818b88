# SPDX-License-Identifier: MIT
"""The mean of checkpoints: fairseq's arithmetic bit for bit, one model in memory, ties kept."""

import copy
import itertools
import weakref
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from builders import cut, model_state, training_checkpoint
from torch import Tensor

from fairseq_layerdrop.pruning.averaging import Average, check_written, everything_else
from fairseq_layerdrop.pruning.plan import PruningPlan

State = dict[str, Tensor]


def stock(states: Iterable[Mapping[str, Tensor]]) -> State:
    """What fairseq's average_checkpoints.py computes, written independently."""
    states = [dict(state) for state in states]
    mean = {}
    for key in states[0]:
        total: Any = 0
        for state in states:
            half = state[key].dtype in (torch.float16, torch.bfloat16)
            total = total + (state[key].float() if half else state[key])
        mean[key] = total / len(states) if total.is_floating_point() else total // len(states)
    return mean


def random_checkpoint(seed: int, encoder: int = 6, decoder: int = 6, **form: Any) -> dict[str, Any]:
    """Random weights of such different sizes that a sum's bits show the order of its terms."""
    found = training_checkpoint(encoder, decoder, **form)
    draw = torch.Generator().manual_seed(seed)
    for tensor in {id(tensor): tensor for tensor in found["model"].values()}.values():
        tensor.copy_(
            torch.randn(tensor.shape, generator=draw)
            * 10.0 ** torch.randint(-3, 3, (1,), generator=draw)
        )
    if decoder:
        found["model"]["decoder.version"].fill_(3)
    return found


def average(checkpoints: Iterable[Mapping[str, Any]], names: str = "abcdefgh") -> dict[str, Any]:
    """Through the code that is tested."""
    mean = Average()
    for name, checkpoint in zip(names, checkpoints, strict=False):
        mean.add(checkpoint, name=f"{name}.pt", source=f"digest of {name}")
    return mean.result(version="1.0")


def average_states(*states: Mapping[str, Tensor]) -> State:
    """Of models alone."""
    return average([training_checkpoint() | {"model": dict(state)} for state in states])["model"]


def bits(state: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {
        key: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for key, tensor in state.items()
    }


def ties(state: Mapping[str, Tensor]) -> set[tuple[str, str]]:
    pairs = itertools.combinations(state, 2)
    return {(one, two) for one, two in pairs if state[one].data_ptr() == state[two].data_ptr()}


# The arithmetic


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_mean_is_fairseqs_bit_for_bit(count: int, dtype: torch.dtype) -> None:
    states = [random_checkpoint(seed)["model"] for seed in range(count)]
    states = [{key: tensor.to(dtype) for key, tensor in state.items()} for state in states]
    mean = average_states(*states)
    assert bits(mean) == bits(stock(states))
    assert list(mean) == list(states[0])
    assert {tensor.dtype for tensor in mean.values()} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }


def test_it_is_summed_in_the_order_of_the_inputs() -> None:
    states = [random_checkpoint(seed)["model"] for seed in range(3)]
    assert bits(stock(states)) != bits(stock(states[::-1])), "the weights must tell orders apart"
    assert bits(average_states(*states[::-1])) == bits(stock(states[::-1]))


def test_half_and_single_precision_go_together() -> None:
    states = [random_checkpoint(seed)["model"] for seed in range(3)]
    states[1] = {key: tensor.half() for key, tensor in states[1].items()}
    assert bits(average_states(*states)) == bits(stock(states))


def test_integers_are_divided_down() -> None:
    numbers = [torch.tensor(list(column)) for column in ((-3, 7, 5), (-4, 8, 5))]
    assert average_states(*({"n": n} for n in numbers))["n"].tolist() == [-4, 7, 5]


def test_truths_are_true_where_all_agree() -> None:
    truths = [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    assert average_states(*({"mask": mask} for mask in truths))["mask"].tolist() == [1, 0, 0]


def test_the_inputs_are_left_alone() -> None:
    checkpoints = [random_checkpoint(seed, ours=True) for seed in range(3)]
    before = copy.deepcopy(checkpoints)
    average(checkpoints)
    for one, two in zip(checkpoints, before, strict=True):
        assert bits(one["model"]) == bits(two["model"])
        assert one["cfg"] == two["cfg"]
        assert {**one["extra_state"], **one["last_optimizer_state"]}.keys() == (
            {**two["extra_state"], **two["last_optimizer_state"]}.keys()
        )


def test_parameters_that_want_gradients_are_averaged_too() -> None:
    states = [{"w": torch.nn.Parameter(torch.full((2,), float(value)))} for value in (1, 2)]
    mean = average_states(*states)["w"]
    assert (mean.tolist(), mean.requires_grad) == ([1.5, 1.5], False)


# Memory


def test_one_checkpoint_is_in_memory_at_a_time() -> None:
    seen: list[weakref.ref[Any]] = []

    def one(seed: int) -> dict[str, Any]:
        assert [ref for ref in seen if ref() is not None] == [], (
            "an earlier checkpoint is still held"
        )
        checkpoint = random_checkpoint(seed, ema=True)
        seen.extend(weakref.ref(tensor) for tensor in checkpoint["model"].values())
        seen.extend(weakref.ref(tensor) for tensor in checkpoint["extra_state"]["ema"].values())
        return checkpoint

    mean = Average()
    for seed in range(4):
        mean.add(one(seed), name=f"{seed}.pt", source=str(seed))
    assert len(seen) > 1000
    assert bits(mean.result(version="1")["model"]) == bits(
        stock(random_checkpoint(n)["model"] for n in range(4))
    )


# Ties

TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")


def test_tied_weights_stay_tied_and_are_added_once() -> None:
    states = [random_checkpoint(seed)["model"] for seed in range(3)]
    mean = average_states(*states)
    assert ties(mean) == {TIED}
    assert bits(mean) == bits(stock(states))


@pytest.mark.parametrize("tied", list(itertools.product([True, False], repeat=3)), ids=str)
def test_a_tie_that_is_not_in_every_input_is_none(tied: tuple[bool, ...]) -> None:
    states = [random_checkpoint(seed, tied=how)["model"] for seed, how in enumerate(tied)]
    mean = average_states(*states)
    assert ties(mean) == ({TIED} if all(tied) else set())
    assert bits(mean) == bits(stock(states))


def test_of_three_that_are_tied_two_may_stay_so() -> None:
    one, two, other = torch.ones(2), torch.full((2,), 3.0), torch.full((2,), 5.0)
    mean = average_states({"a": one, "b": one, "c": one}, {"a": two, "b": other, "c": two})
    assert ties(mean) == {("a", "c")}
    assert {key: tensor.tolist() for key, tensor in mean.items()} == {
        "a": [2, 2],
        "b": [3, 3],
        "c": [2, 2],
    }


def test_views_of_one_storage_are_no_tie() -> None:
    whole = torch.arange(6.0)
    mean = average_states({"a": whole[:3], "b": whole[3:]}, {"a": whole[3:], "b": whole[:3]})
    assert {key: tensor.tolist() for key, tensor in mean.items()} == {
        "a": [1.5, 2.5, 3.5],
        "b": [1.5, 2.5, 3.5],
    }
    assert all(tensor.untyped_storage().nbytes() == 12 for tensor in mean.values())


# Old keys


def test_keys_of_2019_are_averaged_in_todays_form() -> None:
    def old(value: float) -> State:
        weight = torch.arange(12.0).view(6, 2) + value
        return {
            "decoder.layers.0.self_attn.in_proj_weight": weight,
            "decoder.layers.0.layer_norms.0.bias": weight[0],
        }

    mean = average_states(old(0), old(2))
    assert sorted(mean) == [
        *(f"decoder.layers.0.self_attn.{name}_proj.weight" for name in "kqv"),
        "decoder.layers.0.self_attn_layer_norm.bias",
    ]
    assert mean["decoder.layers.0.self_attn.k_proj.weight"].tolist() == [[5, 6], [7, 8]]


# All but the model


def test_everything_else_is_the_firsts() -> None:
    checkpoints = [random_checkpoint(seed) for seed in range(2)]
    for updates, checkpoint in zip((1200, 900), checkpoints, strict=True):
        checkpoint["optimizer_history"][-1]["num_updates"] = updates
        checkpoint["cfg"]["common"]["seed"] = updates
        checkpoint["extra_state"]["previous_training_time"] = updates
        checkpoint["task_state"] = {"from": updates}
        checkpoint["criterion"] = {"weight": torch.tensor(updates)}
    mean = average(checkpoints)
    assert mean["optimizer_history"][-1]["num_updates"] == 1200
    assert mean["cfg"]["common"]["seed"] == 1200
    assert mean["extra_state"]["previous_training_time"] == 1200
    assert mean["extra_state"]["train_iterator"] == checkpoints[0]["extra_state"]["train_iterator"]
    assert mean["task_state"] == {"from": 1200}
    assert mean["criterion"] == {"weight": torch.tensor(1200)}
    assert mean.keys() == checkpoints[0].keys() - {"last_optimizer_state"}


def test_what_is_true_of_one_checkpoint_alone_is_left_out_and_said() -> None:
    checkpoint = training_checkpoint(ema=True)
    checkpoint["extra_state"] |= {"train_meters": {}, "ema_fp32_params": {}}
    mean = Average()
    mean.add(checkpoint, name="a.pt", source="a")
    mean.add(training_checkpoint(), name="b.pt", source="b")
    assert mean.left_out == [
        "optimizer state",
        "EMA weights",
        "best",
        "val_loss",
        "metrics",
        "train_meters",
    ]
    result = mean.result(version="1")
    assert "last_optimizer_state" not in result
    assert result["extra_state"].keys() == {
        "previous_training_time",
        "train_iterator",
        "layerdrop_average",
    }


def test_nothing_is_said_to_be_left_out_of_a_file_that_has_nothing() -> None:
    mean = Average()
    mean.add({"model": model_state(), "cfg": None, "extra_state": None}, name="a.pt", source="a")
    assert mean.left_out == []
    assert mean.result(version="1")["cfg"] is None


def test_objects_that_are_not_plain_are_not_kept() -> None:
    checkpoint = training_checkpoint()
    checkpoint["extra_state"]["task"] = {"meters": [object()], "n": 1}
    checkpoint["optimizer_history"][-1]["lr_scheduler_state"]["best"] = [object()]
    rest = everything_else(checkpoint)
    assert rest["extra_state"]["task"] == {"meters": [None], "n": 1}
    assert rest["optimizer_history"][-1]["lr_scheduler_state"]["best"] == [None]


@pytest.mark.parametrize(
    "arch", ["transformer", "layerdrop_transformer_wmt_en_de_big", "transformer_lm", "roberta"]
)
def test_options_are_plain_where_the_architecture_can_be_built_from_that(arch: str) -> None:
    checkpoint = training_checkpoint(namespace=True)
    checkpoint["cfg"]["model"]._name = arch
    cfg = everything_else(checkpoint)["cfg"]
    assert cfg["model"] == vars(checkpoint["cfg"]["model"])
    assert type(cfg["optimizer"]) is dict
    assert cfg["task"] == checkpoint["cfg"]["task"]


def test_a_namespace_stays_one_where_the_architecture_needs_it() -> None:
    checkpoint = training_checkpoint(namespace=True)
    checkpoint["cfg"]["model"].__dict__.update(
        _name="bart_large", inner=Namespace(a=1), what=[object()]
    )
    rest = everything_else(checkpoint)
    expected = vars(checkpoint["cfg"]["model"]) | {"inner": {"a": 1}, "what": [None]}
    assert rest["cfg"]["model"] == Namespace(**expected)
    assert rest["cfg"]["optimizer"] == checkpoint["cfg"]["optimizer"]
    assert rest["cfg"]["task"] == checkpoint["cfg"]["task"]
    assert rest["args"] is None


@pytest.mark.parametrize(("arch", "kept"), [("transformer", False), ("bart_large", True)])
def test_options_of_2019(arch: str, kept: bool) -> None:
    args = Namespace(
        arch=arch, task="translation", criterion="cross_entropy", data=["bin"], encoder_layers=6
    )
    rest = everything_else({"args": args, "model": {}, "extra_state": {}})
    if kept:
        assert (rest["args"], rest["cfg"]) == (args, None)
    else:
        assert rest["args"] is None
        assert (rest["cfg"]["model"]["_name"], rest["cfg"]["task"]["data"]) == (arch, "bin")


# Where it comes from


def test_the_mean_says_what_it_was_made_of() -> None:
    mean = average([random_checkpoint(seed) for seed in range(3)], names="xya")
    sources = ["digest of x", "digest of y", "digest of a"]
    assert mean["extra_state"]["layerdrop_average"] == {"sources": sources, "version": "1.0"}
    assert "layerdrop" not in mean["extra_state"]


def pruned(seed: int, *keeps: dict[str, str], encoder: int = 6, decoder: int = 6) -> dict[str, Any]:
    """A random checkpoint, pruned as often as there are specs."""
    checkpoint = random_checkpoint(seed, encoder, decoder)
    depths = {"encoder": encoder, "decoder": decoder}
    for keep in keeps:
        plan = PruningPlan.from_specs(keep, depths)
        checkpoint = cut(checkpoint, plan, source=f"full {seed}", version="1.0")
        depths = {stack: len(kept) for stack, kept in plan.kept.items()}
    return checkpoint


def test_checkpoints_of_one_plan_keep_their_provenance() -> None:
    mean = average([pruned(seed, {"decoder": "0,2"}) for seed in range(3)])
    assert (
        mean["extra_state"]["layerdrop"]
        == pruned(0, {"decoder": "0,2"})["extra_state"]["layerdrop"]
    )


def test_other_layers_of_the_same_number_are_refused() -> None:
    checkpoints = [
        pruned(0, {"decoder": "0,2"}),
        pruned(1, {"decoder": "0,2"}),
        pruned(2, {"decoder": "0,3"}),
    ]
    with pytest.raises(
        ValueError,
        match=r"other layers .*\(all/0,3\) than a\.pt \(all/0,2\); average the full models",
    ):
        average(checkpoints)


def test_the_same_layers_by_another_way_are_not_refused() -> None:
    ways = [{"decoder": "0,2,4"}, {"decoder": "1,2"}], [{"decoder": "2,4"}]
    mean = average([pruned(seed, *way) for seed, way in enumerate(ways)])
    assert len(mean["extra_state"]["layerdrop"]["steps"]) == 2


@pytest.mark.parametrize("first", [True, False])
def test_a_file_without_provenance_may_hold_the_same_layers(first: bool) -> None:
    checkpoints = [pruned(0, {"decoder": "0,2"}), random_checkpoint(1, 6, 2)][:: 1 if first else -1]
    mean = average([*checkpoints, pruned(2, {"decoder": "0,2"})])
    assert "layerdrop" not in mean["extra_state"]  # it is not true of all of them
    with pytest.raises(ValueError, match="other layers"):
        average([*checkpoints, pruned(2, {"decoder": "0,3"})])


# What does not fit


def test_another_depth_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError) as caught:
        average([random_checkpoint(0), random_checkpoint(1), random_checkpoint(2, 6, 5)])
    message = str(caught.value)
    assert "does not fit a.pt" in message
    assert "lacks decoder.layers.5." in message
    assert "and 23 more" in message
    assert message.count("decoder.layers.5.") == 3
    assert message.endswith("the depths differ: average models of one depth, then prune the mean")


def test_more_layers_than_the_first_are_refused_too() -> None:
    with pytest.raises(
        ValueError, match=r"has besides encoder\.layers\.4\..* and 13 more; the depths differ"
    ):
        average([random_checkpoint(0, 4, 2), random_checkpoint(1, 5, 2)])


def test_everything_that_differs_is_named_at_once() -> None:
    one, two = random_checkpoint(0), random_checkpoint(1)
    del two["model"]["encoder.layer_norm.bias"]
    two["model"]["decoder.adaptor.weight"] = torch.ones(1)
    two["model"]["encoder.layers.1.fc1.weight"] = torch.zeros(3, 4)
    two["model"]["encoder.layers.1.fc1.bias"] = torch.zeros(8).double()
    two["model"]["encoder.version"] = torch.tensor(3.0)
    with pytest.raises(ValueError) as caught:
        average([one, two])
    message = str(caught.value)
    for what in (
        "it lacks encoder.layer_norm.bias",
        "it has besides decoder.adaptor.weight",
        "encoder.layers.1.fc1.weight is 3x4 float32, not 8x4 float32",
        "encoder.layers.1.fc1.bias is 8 float64, not 8 float32",
        "encoder.version is a single float32, not 1 float32",
    ):
        assert what in message
    assert "depths" not in message


def test_another_model_is_not_called_another_depth() -> None:
    with pytest.raises(ValueError) as caught:
        average([random_checkpoint(0, 0, 6), random_checkpoint(1, 6, 6)])
    assert "depths" not in str(caught.value)


def test_the_same_checkpoint_twice_is_refused() -> None:
    mean = Average()
    mean.add(random_checkpoint(0), name="checkpoint5.pt", source="d")
    with pytest.raises(ValueError, match=r"same checkpoint as checkpoint5\.pt"):
        mean.add(random_checkpoint(0), name="checkpoint_last.pt", source="d")


# Pruned before or after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "form",
    [{}, {"ours": True, "ema": True}, {"namespace": True}, {"tied": False}, {"encoder": 0}],
    ids=str,
)
def test_average_then_prune_is_prune_then_average(form: dict[str, Any], dtype: torch.dtype) -> None:
    depths = {"encoder": form.get("encoder", 6), "decoder": 6}
    depths = {stack: depth for stack, depth in depths.items() if depth}
    plan = PruningPlan.from_specs(dict.fromkeys(depths, "1,4"), depths)
    checkpoints = [random_checkpoint(seed, **form) for seed in range(3)]
    for checkpoint in checkpoints:
        half = {id(tensor): tensor.to(dtype) for tensor in checkpoint["model"].values()}
        checkpoint["model"] = {key: half[id(tensor)] for key, tensor in checkpoint["model"].items()}
    ways = [
        cut(average(checkpoints), plan, source="s", version="1"),
        average(cut(checkpoint, plan, source="s", version="1") for checkpoint in checkpoints),
    ]
    assert bits(ways[0]["model"]) == bits(ways[1]["model"])
    assert list(ways[0]["model"]) == list(ways[1]["model"])
    assert ties(ways[0]["model"]) == ties(ways[1]["model"])
    for way in ways:
        assert way["extra_state"].pop("layerdrop_average")
        assert way["extra_state"].pop("layerdrop")["rates"]
        del way["model"]
    assert ways[0] == ways[1]


# What was written


def test_what_was_written_right_is_right_whatever_its_bits() -> None:
    mean = {
        "a": torch.tensor([float("nan"), -0.0, float("inf")]),
        "b": torch.tensor(3),
        "e": torch.zeros(0),
    }
    check_written(mean, {key: tensor.clone() for key, tensor in mean.items()})


@pytest.mark.parametrize(
    "flaw",
    [
        {"c": torch.zeros(2)},
        {"a": torch.tensor([0.0, 1.0])},
        {"a": torch.tensor([-0.0, 1.0]).double()},
        {"a": torch.tensor([[-0.0, 1.0]])},
    ],
    ids=["a key", "a bit", "a type", "a shape"],
)
def test_what_was_written_wrong_is_noticed(flaw: State) -> None:
    mean = {"a": torch.tensor([-0.0, 1.0]), "b": torch.zeros(2)}
    with pytest.raises(ValueError, match=next(iter(flaw))):
        check_written(mean, mean | flaw)
    with pytest.raises(ValueError, match=next(iter(flaw))):
        check_written(mean | flaw, mean)


@pytest.mark.parametrize("lost", [True, False])
def test_other_ties_are_noticed(lost: bool) -> None:
    one = torch.zeros(2)
    states = [{"a": one, "b": one}, {"a": torch.zeros(2), "b": torch.zeros(2)}]
    with pytest.raises(ValueError, match="ties"):
        check_written(*states if lost else states[::-1])
