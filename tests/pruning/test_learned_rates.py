# SPDX-License-Identifier: MIT
"""What a model learned about its layers, read from its checkpoint."""

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from builders import DIM, WHERE, cut, family_state, share, training_checkpoint
from fairseq_programs import WIDTH, assert_same_tensors, batch, build_task, config, loss_of
from torch import Tensor

import fairseq_layerdrop
from fairseq_layerdrop.modules.learned import LearnedRates
from fairseq_layerdrop.pruning.config import training_rates
from fairseq_layerdrop.pruning.inspection import describe, parameter_sizes
from fairseq_layerdrop.pruning.learned_rates import drop_scores, learned_layers, without_gates
from fairseq_layerdrop.pruning.optimizer import prune_optimizer
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import stack_depths

fairseq_layerdrop.register()

SCORES = {"encoder": [0.5, -1.0, 2.0, 0.0, 1.5, -0.5], "decoder": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}


def gate(scores: list[float], seed: int = 1) -> dict[str, Tensor]:
    """A gate's tensors; the scores are its biases and what its weights make of the activations."""
    torch.manual_seed(seed)
    module = LearnedRates(len(scores), DIM, target=0.5)
    with torch.no_grad():
        module.weight.normal_()
        module.activation.normal_()
        module.bias.copy_(torch.tensor(scores) - module.scores())
    return module.state_dict()


def with_gates(
    state: dict[str, Tensor], modules: dict[str, list[str]], scores: dict[str, list[float]]
) -> dict[str, Any]:
    """A state dict with a gate beside the layers of each stack."""
    added = {
        f"{module}.layerdrop_gate.{name}": tensor
        for stack, paths in modules.items()
        for module in paths
        for name, tensor in gate(scores[stack]).items()
    }
    return {**state, **added}


def learned_checkpoint(**options: Any) -> dict[str, Any]:
    """A checkpoint of 6+6 layers with gates, in the middle of its training."""
    checkpoint = training_checkpoint(ours=True, **options)
    checkpoint["model"] = with_gates(checkpoint["model"], WHERE["transformer"], SCORES)
    if "ema" in checkpoint["extra_state"]:
        checkpoint["extra_state"]["ema"] = copy.deepcopy(checkpoint["model"])
    checkpoint["cfg"]["model"] |= {
        "layerdrop_schedule": "learned",
        "encoder_layerdrop": 0.5,
        "decoder_layerdrop": 0.25,
    }
    return checkpoint


# Scores


@pytest.mark.parametrize("family", ["transformer", "transformer_lm", "roberta"])
def test_scores_are_those_of_the_training(family: str) -> None:
    modules = WHERE[family]
    state = with_gates(family_state(family), modules, SCORES)
    found = drop_scores(state, stack_depths(state))
    assert found.keys() == modules.keys()
    for stack, scores in found.items():
        assert scores == pytest.approx(SCORES[stack], abs=1e-5)


def test_a_model_without_gates_has_no_scores() -> None:
    state = family_state("transformer")
    assert drop_scores(state, stack_depths(state)) == {}


def test_a_stack_alone_may_have_learned() -> None:
    state = with_gates(family_state("transformer"), {"decoder": ["decoder"]}, SCORES)
    assert drop_scores(state, stack_depths(state)).keys() == {"decoder"}


def test_neighbours_that_share_their_weights_have_one_score() -> None:
    state = with_gates(
        family_state("transformer"),
        WHERE["transformer"],
        {"encoder": [1.0, 3.0, 2.0], "decoder": [4, 5]},
    )
    found = drop_scores(state, {"encoder": 6, "decoder": 6})
    assert found["encoder"] == pytest.approx([1, 1, 3, 3, 2, 2], abs=1e-5)
    assert found["decoder"] == pytest.approx([4, 4, 4, 5, 5, 5], abs=1e-5)


# The layers they name


@pytest.mark.parametrize(
    ("count", "kept"),
    [(1, "1"), (2, "1,5"), (3, "1,3,5"), (4, "0,1,3,5"), (5, "0,1,3,4,5"), (6, "0,1,2,3,4,5")],
)
def test_the_layers_with_the_lowest_scores_are_kept_in_their_order(count: int, kept: str) -> None:
    assert learned_layers(SCORES, "encoder", f"learned:{count}") == kept
    assert learned_layers(SCORES, "encoder", f" learned:{count} ") == kept


def test_of_equal_scores_the_first_is_kept() -> None:
    assert learned_layers({"decoder": [1.0, 0.0, 1.0, 1.0]}, "decoder", "learned:2") == "0,1"


@pytest.mark.parametrize(
    "spec", [None, "0,2", "every:2", "all", "learned", "learned:x", "unlearned:2", "learned:-1"]
)
def test_what_is_no_number_of_learned_layers_stays_as_it_is(spec: str | None) -> None:
    assert learned_layers(SCORES, "encoder", spec) is spec


@pytest.mark.parametrize("count", [0, 7])
def test_a_number_that_does_not_fit_the_depth_is_refused(count: int) -> None:
    with pytest.raises(
        ValueError, match=f"encoder: learned takes a number from 1 to the depth, 6, got {count}"
    ):
        learned_layers(SCORES, "encoder", f"learned:{count}")


def test_a_stack_that_has_learned_nothing_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"decoder: .*--layerdrop-schedule learned"):
        learned_layers({"encoder": [0.0]}, "decoder", "learned:1")


# Files without gates


@pytest.mark.parametrize("family", WHERE)
def test_a_gate_goes_and_nothing_else_does(family: str) -> None:
    state = family_state(family)
    assert_same_tensors(without_gates(with_gates(state, WHERE[family], SCORES)), state)
    assert without_gates({"layerdrop_gate.bias": 1, "gate.bias": 2, "a.layerdrop_gates.b": 3}) == {
        "gate.bias": 2,
        "a.layerdrop_gates.b": 3,
    }


def test_a_pruned_checkpoint_has_no_gate_and_no_field_of_ours() -> None:
    from fairseq_layerdrop.models._config import LayerDropConfig

    full = learned_checkpoint(ema=True)
    fresh = {
        f.name: getattr(LayerDropConfig(), f.name)
        for f in fields(LayerDropConfig)
        if f.name != "_name"
    }
    full["cfg"]["model"] = {**fresh, **full["cfg"]["model"], "share_layers": 1, "seed": 3}
    for plan in ({}, {"encoder": "1,5", "decoder": "0-2"}):
        depths = {"encoder": 6, "decoder": 6}
        small = cut(full, PruningPlan.from_specs(plan, depths), source="s", version="v")
        assert not [
            key for key in (*small["model"], *small["extra_state"]["ema"]) if "layerdrop" in key
        ]
        assert set(small["cfg"]["model"]) & set(fresh) == set()
        assert small["cfg"]["model"]["encoder_layerdrop"] == 0.0
        assert small["extra_state"]["layerdrop"]["rates"] == {"encoder": 0.5, "decoder": 0.25}
    assert any("layerdrop_gate" in key for key in full["model"])  # which is not changed


@pytest.mark.parametrize(
    ("saved", "rates"),
    [
        ("0,0.1,0.2,0.3,0.4,0.5", [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ([0.1] * 6, [0.1] * 6),
        ("[0.1, 0.2]", [0.1, 0.2]),
        (0.3, 0.3),
        ("0.3", 0.3),
    ],
    ids=str,
)
def test_listed_rates_are_read_and_noted_in_what_is_pruned(saved: Any, rates: Any) -> None:
    full = training_checkpoint(ours=True)
    full["cfg"]["model"]["encoder_layerdrop"] = saved
    assert training_rates(full["cfg"]["model"]) == {"encoder": rates, "decoder": 0.3}
    assert describe(Source.of(full))["stacks"]["encoder"]["layerdrop"] == rates
    plan = PruningPlan.from_specs({"encoder": "0,3"}, {"encoder": 6, "decoder": 6})
    small = cut(full, plan, source="s", version="v")
    assert small["cfg"]["model"]["encoder_layerdrop"] == 0.0
    assert describe(Source.of(small))["stacks"]["encoder"]["layerdrop"] == rates


def test_running_means_are_no_parameters() -> None:
    state = learned_checkpoint()["model"]
    sizes = parameter_sizes(state)
    assert not [key for key in sizes if key.endswith("activation")]
    assert sum(sizes.values()) - sum(parameter_sizes(without_gates(state)).values()) == 12 * (
        DIM + 1
    )


# The optimizer


FLAGS = {
    "layerdrop_transformer": [*WIDTH, "--share-all-embeddings"],
    "layerdrop_roberta": [*WIDTH[:6], "--task", "layerdrop_masked_lm", "--tokens-per-sample", "16"],
}


def built(name: str, **options: Any) -> Any:
    """A tiny model of 4 layers a stack, or of what the options say."""
    cfg = config("--arch", name, *FLAGS[name])
    stacks = ("encoder", "decoder") if name == "layerdrop_transformer" else ("encoder",)
    for option, value in {**{f"{stack}_layers": 4 for stack in stacks}, **options}.items():
        cfg.model[option] = value
    torch.manual_seed(5)
    return build_task(cfg).build_model(cfg.model)


def trained(model: Any) -> Any:
    """Adam after two updates of the model."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for update in range(2):
        model.train().set_num_updates(update)
        optimizer.zero_grad()
        loss_of(model, batch(seed=update)).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("share", [1, 2], ids=["apart", "shared"])
@pytest.mark.parametrize("name", FLAGS)
def test_the_moments_that_are_kept_are_those_of_the_layers_by_name(name: str, share: int) -> None:
    """Of a model with gates; into an optimizer of the parameters of the depth that is left."""
    model = built(name, layerdrop_schedule="learned", share_layers=share)
    optimizer = trained(model)
    moments = {
        key: optimizer.state[parameter]
        for key, parameter in model.named_parameters(remove_duplicate=False)
    }
    assert any(moments[key]["exp_avg"].any() for key in moments if "layerdrop_gate" in key)
    kept = {
        "encoder": (2, 3) if share == 2 else (1, 3),
        "decoder": (0, 1) if share == 2 else (0, 3),
    }
    if name == "layerdrop_roberta":
        del kept["decoder"]
    plan = PruningPlan.from_specs({s: list(k) for s, k in kept.items()}, dict.fromkeys(kept, 4))
    small = built(name, **{f"{stack}_layers": 2 for stack in kept}, share_layers=share)
    fresh = torch.optim.Adam(small.parameters(), lr=0.01)
    fresh.load_state_dict(prune_optimizer(optimizer.state_dict(), model.state_dict(), plan))
    for key, parameter in small.named_parameters():
        parts = key.split(".")
        if "layers" in parts:
            place = parts.index("layers") + 1
            parts[place] = str(kept[parts[0]][int(parts[place])])
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(fresh.state[parameter][moment], moments[".".join(parts)][moment]), (
                key,
                moment,
            )
    assert len(fresh.state) == len(list(small.parameters()))


def test_a_shared_checkpoint_s_chunks_are_told() -> None:
    checkpoint = learned_checkpoint()
    checkpoint["model"] = share(checkpoint["model"], "encoder.layers", [(0, 1), (2, 3), (4, 5)])
    about = describe(Source.of(checkpoint))["stacks"]
    assert about["encoder"]["shared"] == [(0, 1), (2, 3), (4, 5)]
    assert about["decoder"]["shared"] == []
