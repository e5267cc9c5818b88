# SPDX-License-Identifier: MIT
"""Rates that differ by layer: linear, listed, warmed up, learned; shared neighbours."""

import copy
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq.utils import move_to_cpu
from fairseq_programs import (
    WIDTH,
    assert_same_tensors,
    build_model,
    build_task,
    config,
    dictionary,
    layers_run,
    loss_of,
    stacks,
)
from omegaconf import OmegaConf
from test_every_family import FAMILIES, Family

import fairseq_layerdrop
from fairseq_layerdrop.pruning.config import training_rates
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import check_chunks, chunks
from fairseq_layerdrop.pruning.upgrade import tie

fairseq_layerdrop.register()

TRANSFORMER = FAMILIES["transformer"]
BOTH = {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}
UNDROPPED = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
STRUCTURES = {"sublayerdrop": 0.3, "headdrop": 0.4, "ffndrop": 0.3, "weightdrop": 0.2}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def rates(model: Any) -> dict[str, tuple[float, ...]]:
    return {name: stack.layers.rates for name, stack in stacks(model).items()}


def train(model: Any, family: Family, updates: range, *, sample: int | None = None) -> list[float]:
    """So many updates, each on a sample of its own; the losses."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for update in updates:
        model.train().set_num_updates(update)
        optimizer.zero_grad()
        loss = loss_of(model, family.sample(update if sample is None else sample))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Schedules


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0.6]), (2, [0.3, 0.6]), (6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])],
    ids=["1", "2", "6"],
)
def test_linear_rates_grow_with_depth(depth: int, expected: list[float]) -> None:
    model = TRANSFORMER.build(
        encoder_layers=depth,
        encoder_layerdrop=0.6,
        decoder_layerdrop=0.4,
        layerdrop_schedule="linear",
    )
    assert rates(model)["encoder"] == pytest.approx(expected)
    assert rates(model)["decoder"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_the_same_rate_for_all_is_the_default(family: Family) -> None:
    assert set(rates(family.build(**family.each("layerdrop", 0.3))).values()) == {(0.3,) * 4}


def test_linear_rates_are_realised_in_every_family(family: Family) -> None:
    model = family.build(
        **family.each("layerdrop", 0.8), layerdrop_schedule="linear", layerdrop_min_layers=0
    ).train()
    for name, stack in stacks(model).items():
        counts = [0] * 4
        for update in range(1000):
            model.set_num_updates(update)
            for i in stack.layers.draw().active:
                counts[i] += 1
        for i, rate in enumerate([0.2, 0.4, 0.6, 0.8]):
            sigma = math.sqrt(rate * (1 - rate) / 1000)
            assert abs(counts[i] / 1000 - (1 - rate)) < 5 * sigma, (name, i)


LISTS = [
    "0,0.1,0.2,0.3",
    "[0, 0.1, 0.2, 0.3]",
    "(0, .1, .2, .3)",
    [0, 0.1, 0.2, 0.3],
    "0, 1e-1, 0.2 ,0.3",
]


@pytest.mark.parametrize("value", LISTS, ids=str)
def test_rates_can_be_listed_one_for_each_layer(value: Any) -> None:
    model = TRANSFORMER.build(encoder_layerdrop=value)
    assert rates(model)["encoder"] == (0.0, 0.1, 0.2, 0.3)
    assert rates(model)["decoder"] == (0.2,) * 4


def test_a_list_and_a_schedule_come_from_the_command_line_and_back_from_a_checkpoint() -> None:
    sizes = [*WIDTH, "--encoder-layers", "4", "--decoder-layers", "3"]
    lists = [
        "--encoder-layerdrop",
        "0,0.1,0.2,0.3",
        "--decoder-layerdrop",
        "0.3",
        "--layerdrop-warmup-updates",
        "9",
    ]
    cfg = config("--arch", "layerdrop_transformer", *sizes, *lists)
    saved = OmegaConf.create(
        copy.deepcopy(OmegaConf.to_container(cfg.model, resolve=True))
    )  # as fairseq does
    for model in (cfg.model, saved):
        stack = build_task(cfg).build_model(model).encoder.layers
        assert (stack.rates, stack.warmup) == ((0.0, 0.1, 0.2, 0.3), 9)
    assert training_rates(OmegaConf.to_container(saved)) == {
        "encoder": [0.0, 0.1, 0.2, 0.3],
        "decoder": 0.3,
    }


def test_hydra_takes_lists_and_schedules() -> None:
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    hydra_init()
    GlobalHydra.instance().clear()
    sizes = ["model.encoder_embed_dim=8", "model.encoder_layers=2", "model.decoder_layers=2"]
    ours = [
        "model.encoder_layerdrop=[0.1,0.2]",
        "model.share_layers=1",
        "model.layerdrop_warmup_updates=7",
    ]
    with initialize_config_module("fairseq.config"):
        cfg = compose(
            "config",
            overrides=["model=layerdrop_transformer", "task=layerdrop_translation", *sizes, *ours],
        )
    model = build_task(cfg).build_model(cfg.model)
    assert (model.encoder.layers.rates, model.encoder.layers.warmup) == ((0.1, 0.2), 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder_layerdrop": "0,0.1,0.2"},
            "--encoder-layerdrop: there must be one rate.* 4 .* got 3",
        ),
        ({"decoder_layerdrop": [0.1] * 5}, "--decoder-layerdrop: .* got 5"),
        ({"encoder_layerdrop": "0,0.1,0.2,1.2"}, "--encoder-layerdrop: .*1.2"),
        ({"encoder_layerdrop": "0,0.1,0.2,x"}, "--encoder-layerdrop: .*'x'"),
        (
            {"encoder_layerdrop": "0,0,0,0", "layerdrop_schedule": "linear"},
            "a list of rates takes no schedule.*linear",
        ),
        (
            {"encoder_layerdrop": "0,0,0,0", "layerdrop_schedule": "learned"},
            "takes no schedule.*learned",
        ),
        (
            {"encoder_layerdrop": 0.97, "layerdrop_schedule": "learned"},
            "--encoder-layerdrop: .*0.95.*0.97",
        ),
        (
            {"layerdrop_schedule": "quadratic"},
            "uniform, linear, exponential, learned, got 'quadratic'",
        ),
        ({"layerdrop_warmup_updates": -1}, "--layerdrop-warmup-updates: .*-1"),
        ({"share_layers": 3}, "--share-layers must divide the depth, 4, got 3"),
        (
            {"share_layers": 2, "encoder_layerdrop": "0,0.1,0.2,0.3"},
            "--encoder-layerdrop: .* 2 .*chunks.* got 4",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRANSFORMER.build(**options)


def test_everything_wrong_is_named_at_once() -> None:
    wrong = {
        "encoder_layerdrop": "0.1,0.2",
        "decoder_layerdrop": 3.0,
        "layerdrop_warmup_updates": -1,
        "headdrop": 7.0,
    }
    with pytest.raises(ValueError) as refused:
        TRANSFORMER.build(**wrong)
    for part in ("--encoder-layerdrop", "--decoder-layerdrop", "--layerdrop-warmup-updates", "7.0"):
        assert part in str(refused.value)


def test_a_schedule_that_there_is_not_is_refused_by_its_flag() -> None:
    with pytest.raises(ValueError, match="--layerdrop-schedule"):
        TRANSFORMER.build(layerdrop_schedule="quadratic")


@pytest.mark.parametrize("share", [0, -2])
def test_so_many_layers_cannot_share(share: int) -> None:
    with pytest.raises(ValueError, match="--share-layers"):
        TRANSFORMER.build(share_layers=share)


def test_a_warm_up_drops_nothing_at_first_half_in_its_middle_and_then_all(family: Family) -> None:
    options = {
        **family.each("layerdrop", 0.8),
        "layerdrop_warmup_updates": 100,
        "layerdrop_min_layers": 0,
    }
    model = family.build(**options).train()
    for update, expected in ((0, 1.0), (50, 0.6), (100, 0.2), (1000, 0.2)):
        model.set_num_updates(update)
        for stack in stacks(model).values():
            drawn = [len(stack.layers.draw().active) / 4 for _ in range(250)]
            sigma = math.sqrt(expected * (1 - expected) / 1000)
            assert abs(sum(drawn) / 250 - expected) <= 5 * sigma


def test_a_warm_up_begins_as_stock_fairseq_trains() -> None:
    stock = TRANSFORMER.build_stock().train()
    ours = TRANSFORMER.build(**BOTH, **STRUCTURES, layerdrop_warmup_updates=50).train()
    found = []
    for model in (stock, ours):
        torch.manual_seed(1)
        model.set_num_updates(0)
        loss = loss_of(model)
        loss.backward()
        found.append(
            (loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()})
        )
    assert found[0][0] == found[1][0]
    assert_same_tensors(found[1][1], found[0][1])


def test_layers_to_keep_have_the_schedule_of_the_depth_that_is_left() -> None:
    model = TRANSFORMER.build(
        encoder_layers_to_keep="0,3", layerdrop_schedule="linear", encoder_layerdrop=0.4
    )
    assert rates(model)["encoder"] == pytest.approx([0.2, 0.4])


def test_the_log_tells_the_lowest_and_the_highest_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="fairseq_layerdrop")
    TRANSFORMER.build(
        **BOTH, layerdrop_schedule="linear", layerdrop_min_layers=0
    ).train().set_num_updates(0)
    (line,) = (r.getMessage() for r in caplog.records if "encoder: asked" in r.getMessage())
    assert "asked rates 0.125 to 0.5" in line
    assert "effective rate 0.3125, 2.75 layers" in line


# Learned rates


def gates(model: Any) -> dict[str, Any]:
    return {name: stack.layerdrop_gate for name, stack in stacks(model).items()}


LEARNED = {"layerdrop_schedule": "learned"}


def test_a_gate_comes_beside_stock_s_weights_and_changes_none(family: Family) -> None:
    ours, stock = family.build(**LEARNED).state_dict(), family.build_stock().state_dict()
    added = {key: tensor.shape for key, tensor in ours.items() if "layerdrop_gate" in key}
    assert_same_tensors({key: tensor for key, tensor in ours.items() if key not in added}, stock)
    assert len(added) == 3 * len(family.stacks)
    for key, shape in added.items():
        assert shape == ((4,) if key.endswith("bias") else (4, 32))


def test_evaluation_of_a_trained_gate_s_model_is_stock_s_to_the_bit(family: Family) -> None:
    ours, stock = family.build(**family.each("layerdrop", 0.5), **LEARNED), family.build_stock()
    train(ours, family, range(4))
    stock.load_state_dict(
        {key: t for key, t in ours.state_dict().items() if "layerdrop_gate" not in key}
    )
    inputs = family.sample()["net_input"]
    before = copy.deepcopy(ours.state_dict())
    assert torch.equal(ours.eval()(**inputs)[0], stock.eval()(**inputs)[0])
    assert_same_tensors(ours.state_dict(), before)


@pytest.mark.parametrize("target", [0.2, 0.5, 0.95])
def test_the_mean_rate_is_the_target_at_every_update(family: Family, target: float) -> None:
    model = family.build(**family.each("layerdrop", target), **LEARNED)
    for update in range(8):
        losses = train(model, family, range(update, update + 1))
        assert math.isfinite(losses[0])
        for gate in gates(model).values():
            found = gate.rates().detach()
            assert abs(float(found.mean()) - target) < 1e-6
            assert found.min() >= 0 and found.max() <= 0.95
    if target < 0.95:  # where all are as high as can be, there is nothing to learn
        assert all(float(gate.rates().std()) > 1e-3 for gate in gates(model).values())


def test_a_gate_has_gradients_at_the_highest_target_too() -> None:
    model = TRANSFORMER.build(encoder_layerdrop=0.95, decoder_layerdrop=0.95, **LEARNED)
    for update in range(3):
        train(model, TRANSFORMER, range(update, update + 1))
        assert [
            name for name, parameter in model.named_parameters() if parameter.grad is None
        ] == []


def test_each_gate_sees_what_reaches_the_layers_of_its_stack(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 0.5), **LEARNED, **UNDROPPED).train()
    states = family.hidden_states(model)
    for name, gate in gates(model).items():
        reached = torch.stack([state.detach().mean((0, 1)) for state in states[name][:4]])
        forwards = 2 if name == "encoder" and len(family.stacks) == 2 else 1
        if forwards == 1:  # of two forwards the first one's states are not known here
            torch.testing.assert_close(gate.activation, 0.1 * reached)
        else:
            assert gate.activation.abs().sum(1).all()


@contextmanager
def steps_of(model: Any) -> Iterator[dict[str, Any]]:
    """What is drawn for each stack in this scope."""
    steps: dict[str, Any] = {}

    def noting(name: str, draw: Any) -> Any:
        def draw_and_note() -> Any:
            steps[name] = draw()
            return steps[name]

        return draw_and_note

    for name, stack in stacks(model).items():
        stack.layers.draw = noting(name, stack.layers.draw)
    yield steps
    for stack in stacks(model).values():
        del stack.layers.draw


def test_a_step_s_value_is_that_of_the_layers_it_runs(family: Family) -> None:
    """Bit for bit what a model without a gate computes of the same layers."""
    ours, plain = (
        family.build(**family.each("layerdrop", 0.5), **UNDROPPED, **more).train()
        for more in (LEARNED, {})
    )
    for update in range(5):
        ours.set_num_updates(update)
        with steps_of(ours) as steps:
            got = ours(**family.sample()["net_input"])[0]
        for name, stack in stacks(plain).items():
            stack.layers.keep = steps[name].active
        assert torch.equal(got, plain(**family.sample()["net_input"])[0])


def test_a_layer_that_is_dropped_is_not_computed_and_stands_still(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 0.6), **LEARNED).train()
    for update in range(5):
        model.set_num_updates(update)
        model.zero_grad()
        with layers_run(model) as run, steps_of(model) as steps:
            loss_of(model, family.sample()).backward()
        assert [
            name for name, parameter in model.named_parameters() if parameter.grad is None
        ] == []
        for name, stack in stacks(model).items():
            moved = [
                i
                for i, layer in enumerate(stack.layers)
                if any(p.grad.any() for p in layer.parameters())
            ]
            assert moved == list(steps[name].active)
            looked_at = {steps[name].probe} - {None}
            assert set(run[name]) == {*moved, *looked_at}, (
                "one dropped layer is looked at, no other is computed"
            )
            assert stack.layerdrop_gate.bias.grad.any()


def test_the_log_has_every_learned_rate(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 0.4), **LEARNED)
    train(model, family, range(6))
    with metrics.aggregate(new_root=True) as meters:
        model.set_num_updates(6)
        expected = {name: gate.rates().tolist() for name, gate in gates(model).items()}
        loss_of(model, family.sample())
    values = meters.get_smoothed_values()
    for stack in ("encoder", "decoder"):
        shown = [values.get(f"{stack}_rate_{i}") for i in range(5)]
        assert shown == [pytest.approx(rate, abs=5e-4) for rate in expected.get(stack, [])] + [
            None
        ] * (1 if stack in expected else 5)


def test_evaluation_logs_no_rates(family: Family) -> None:
    model = family.build(**family.each("layerdrop", 0.4), **LEARNED).eval()
    with metrics.aggregate(new_root=True) as meters:
        loss_of(model, family.sample())
    assert not [
        name for name in meters.get_smoothed_values() if "_rate_" in name or "_keep" in name
    ]


def test_a_model_that_was_saved_goes_on_as_if_it_had_not_been(family: Family) -> None:
    """Rates, running means and draws; the rest at learning rate 0, so without an optimizer."""
    options = {**family.each("layerdrop", 0.5), **LEARNED, **UNDROPPED}

    def go_on(model: Any) -> list[tuple[list[float], dict[str, list[int]]]]:
        found = []
        for update in range(4, 8):
            model.train().set_num_updates(update)
            with layers_run(model) as run:
                loss_of(model, family.sample(update))
            found.append(
                ([rate for g in gates(model).values() for rate in g.rates().tolist()], dict(run))
            )
        return found

    straight, resumed = family.build(**options), family.build(**options, draw=8)
    train(straight, family, range(4))
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert go_on(straight) == go_on(resumed)


@pytest.mark.parametrize("structures", [{}, STRUCTURES], ids=["layers alone", "with structures"])
def test_checkpointed_activations_give_the_gate_the_same_gradients(
    structures: dict[str, float],
) -> None:
    found = []
    for checkpointed in (False, True):
        options = {**BOTH, **LEARNED, **structures, "checkpoint_activations": checkpointed}
        model = TRANSFORMER.build(**options).train()
        for update in range(3):
            model.set_num_updates(update)
            torch.manual_seed(update)
            loss_of(model).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("layerdrop_gate.bias" in name and grad.any() for name, grad in found[0].items())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_a_copy_of_a_model_learns_apart(family: Family) -> None:
    """As fairseq's EMA copies it."""
    model = family.build(**LEARNED, **family.each("layerdrop", 0.5))
    twin = copy.deepcopy(model)
    before = copy.deepcopy(twin.state_dict())
    train(model, family, range(2))
    assert_same_tensors(twin.state_dict(), before)
    for stack in stacks(twin).values():
        assert stack.layers.learned is stack.layerdrop_gate


@pytest.mark.slow
@pytest.mark.parametrize("useless", range(4))
def test_a_layer_that_adds_nothing_has_a_higher_rate_than_any_that_is_missed(useless: int) -> None:
    """In a Transformer that learns to reverse sentences, with its other weights trained too."""
    options = {"encoder_layerdrop": 0.3, "decoder_layerdrop": 0.3, **LEARNED, **UNDROPPED}
    model = TRANSFORMER.build(
        **options, encoder_normalize_before=True, decoder_normalize_before=True
    )
    for stack in stacks(model).values():
        for name, parameter in stack.layers[useless].named_parameters():
            parameter.requires_grad_(False)
            if "out_proj" in name or "fc2" in name:
                parameter.zero_()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.003)
    words, generator = dictionary(), torch.Generator().manual_seed(5)
    for update in range(400):
        source = torch.randint(words.nspecial, len(words), (16, 6), generator=generator)
        target = source.flip(1)
        previous = torch.cat([torch.full((16, 1), words.eos()), target[:, :-1]], dim=1)
        net_input = {
            "src_tokens": source,
            "src_lengths": torch.full((16,), 6),
            "prev_output_tokens": previous,
        }
        model.train().set_num_updates(update)
        optimizer.zero_grad()
        sample = {"net_input": net_input, "target": target}
        loss_of(model, sample).backward()
        optimizer.step()
    whole = loss_of(model.eval(), sample).item()
    for stack in stacks(model).values():
        learned, missed = stack.layerdrop_gate.rates().tolist(), 0
        for layer in range(4):
            stack.layers.keep = tuple(i for i in range(4) if i != layer)
            if loss_of(model, sample).item() - whole > 0.01:
                assert learned[layer] < learned[useless]
                missed += 1
        stack.layers.keep = None
        assert missed


def test_a_warm_up_holds_for_learned_rates_too() -> None:
    model = TRANSFORMER.build(**BOTH, **LEARNED, layerdrop_warmup_updates=10).train()
    model.set_num_updates(0)
    with layers_run(model) as run:
        loss_of(model).backward()
    assert run == {"encoder": [0, 1, 2, 3], "decoder": [0, 1, 2, 3]}
    with metrics.aggregate(new_root=True) as meters:
        model.set_num_updates(5)
        loss_of(model)
    values = meters.get_smoothed_values()
    assert sum(values[f"encoder_rate_{i}"] for i in range(4)) == pytest.approx(1.0, abs=3e-3)


@pytest.mark.parametrize(
    ("share", "kept", "rows"),
    [(1, (0, 3), [0, 3]), (1, (2,), [2]), (2, (2, 3), [1])],
    ids=["two", "one", "a chunk"],
)
def test_a_learned_model_is_loaded_pruned_and_its_gate_along(
    share: int, kept: tuple[int, ...], rows: list[int]
) -> None:
    full = TRANSFORMER.build(**LEARNED, **BOTH, share_layers=share)
    train(full, TRANSFORMER, range(3))
    saved = full.state_dict()
    before = copy.deepcopy(saved)
    options = {**LEARNED, "share_layers": share, "encoder_layers_to_keep": ",".join(map(str, kept))}
    small = TRANSFORMER.build(**options, draw=8)
    small.load_state_dict(saved)
    assert_same_tensors(saved, before)
    for name in ("weight", "bias", "activation"):
        whole = getattr(full.encoder.layerdrop_gate, name)
        assert torch.equal(getattr(small.encoder.layerdrop_gate, name), whole[rows])
    full.eval().encoder.layers.keep = kept
    inputs = TRANSFORMER.sample()["net_input"]
    assert torch.equal(small.eval()(**inputs)[0], full(**inputs)[0])


# Layers that share their weights


@pytest.mark.parametrize("share", [2, 4])
def test_neighbours_are_one_module_and_stored_once(family: Family, share: int) -> None:
    plain, shared = family.build(), family.build(share_layers=share)
    for name, stack in stacks(shared).items():
        first = [stack.layers[i - i % share] for i in range(4)]
        assert [stack.layers[i] for i in range(4)] == first
        assert len({id(layer) for layer in first}) == 4 // share
        kept = [stacks(plain)[name].layers[i - i % share].state_dict() for i in range(4)]
        for i in range(4):  # those that the seed drew for the first of each chunk
            assert_same_tensors(stack.layers[i].state_dict(), kept[i])
    in_layers = sum(
        p.numel() for stack in stacks(plain).values() for p in stack.layers.parameters()
    )
    count = [sum(p.numel() for p in model.parameters()) for model in (plain, shared)]
    assert (count[0] - count[1]) * share == in_layers * (share - 1)
    assert {k: t.shape for k, t in shared.state_dict().items()} == {
        k: t.shape for k, t in plain.state_dict().items()
    }
    sizes = []
    for model in (plain, shared):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        sizes.append(len(file.getvalue()))
    saved = 4 * (count[0] - count[1])
    assert saved <= sizes[0] - sizes[1] < 1.5 * saved


def test_a_model_of_shared_layers_is_stock_s_of_equal_layers(family: Family) -> None:
    shared, stock = family.build(share_layers=2).eval(), family.build_stock().eval()
    stock.load_state_dict(shared.state_dict())
    inputs = family.sample()["net_input"]
    assert torch.equal(shared(**inputs)[0], stock(**inputs)[0])


@pytest.mark.parametrize(
    "options", [{}, {"checkpoint_activations": True}], ids=["plain", "checkpointed"]
)
def test_gradients_are_the_sum_over_both_uses(options: dict[str, bool]) -> None:
    never = dict.fromkeys(BOTH, 0.0)
    shared = TRANSFORMER.build(**never, **UNDROPPED, **options, share_layers=2).train()
    apart = TRANSFORMER.build(**never, **UNDROPPED, **options).train()
    apart.load_state_dict(shared.state_dict())
    for model in (shared, apart):
        loss_of(model).backward()
    for name, stack in stacks(shared).items():
        for i in (0, 2):
            one, two = (dict(stacks(apart)[name].layers[j].named_parameters()) for j in (i, i + 1))
            for key, parameter in stack.layers[i].named_parameters():
                torch.testing.assert_close(
                    parameter.grad, one[key].grad + two[key].grad, rtol=1e-4, atol=1e-6
                )


def test_chunks_are_dropped_together_at_their_rate(family: Family) -> None:
    options = {**family.each("layerdrop", "0.2,0.7"), "share_layers": 2, "layerdrop_min_layers": 0}
    model = family.build(**options).train()
    for stack in stacks(model).values():
        counts = [0, 0]
        for update in range(1000):
            model.set_num_updates(update)
            active = stack.layers.draw().active
            assert active in ((), (0, 1), (2, 3), (0, 1, 2, 3))
            counts = [count + (2 * i in active) for i, count in enumerate(counts)]
        for count, keep in zip(counts, (0.8, 0.3), strict=True):
            assert abs(count / 1000 - keep) < 5 * math.sqrt(keep * (1 - keep) / 1000)
        assert stack.layers.expected_depth == pytest.approx(2.2)


def test_linear_rates_grow_by_chunks() -> None:
    model = TRANSFORMER.build(share_layers=2, encoder_layerdrop=0.4, layerdrop_schedule="linear")
    assert rates(model)["encoder"] == pytest.approx([0.2, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    "options",
    [{}, LEARNED, STRUCTURES, {**LEARNED, **STRUCTURES}],
    ids=["layers", "learned", "inside", "all"],
)
def test_shared_layers_train_and_stay_shared(options: dict[str, Any]) -> None:
    model = TRANSFORMER.build(**BOTH, **options, **UNDROPPED, share_layers=2)
    losses = train(model, TRANSFORMER, range(15), sample=1)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-4:]) < sum(losses[:4])
    found = chunks(model.state_dict())
    assert found == {"encoder": [(0, 1), (2, 3)], "decoder": [(0, 1), (2, 3)]}
    for gate in gates(model).values() if "layerdrop_schedule" in options else ():
        assert len(gate.rates()) == 2
    again = TRANSFORMER.build(**BOTH, **options, **UNDROPPED, share_layers=2, draw=8)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert_same_tensors(again.state_dict(), model.state_dict())


def test_what_is_inside_two_uses_of_a_layer_is_drawn_apart() -> None:
    model = TRANSFORMER.build(**dict.fromkeys(BOTH, 0.0), **STRUCTURES, share_layers=2).train()
    drawn = []
    for update in range(10):
        model.set_num_updates(update)
        drawn.append(model.encoder.layers.draw().inside)
    assert any(inside[0].sublayers != inside[1].sublayers for inside in drawn)
    assert all(inside[0].weights != inside[1].weights for inside in drawn)


def test_checkpointed_activations_give_shared_layers_the_same_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        options = {
            **BOTH,
            **STRUCTURES,
            **LEARNED,
            "share_layers": 2,
            "checkpoint_activations": checkpointed,
        }
        model = TRANSFORMER.build(**options).train()
        model.set_num_updates(3)
        torch.manual_seed(1)
        loss_of(model).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_a_plan_that_parts_a_chunk_is_refused_and_names_it() -> None:
    state = TRANSFORMER.build(share_layers=2).state_dict()
    with pytest.raises(
        ValueError,
        match="decoder: the layers 2,3 share their weights, keep all or none of them; got 2",
    ):
        check_chunks(
            state, PruningPlan.from_specs({"decoder": "0-2"}, {"encoder": 4, "decoder": 4})
        )
    check_chunks(
        state,
        PruningPlan.from_specs({"encoder": "2,3", "decoder": "0,1"}, {"encoder": 4, "decoder": 4}),
    )


def test_a_shared_state_dict_is_loaded_pruned_by_chunks() -> None:
    full = TRANSFORMER.build(share_layers=2).eval()
    small = TRANSFORMER.build(share_layers=2, encoder_layers_to_keep="2,3", draw=6).eval()
    small.load_state_dict(full.state_dict())
    full.encoder.layers.keep = (2, 3)
    inputs = TRANSFORMER.sample()["net_input"]
    assert torch.equal(small(**inputs)[0], full(**inputs)[0])


def test_layers_that_are_one_are_known_as_such_in_a_file_from_half_precision() -> None:
    # fairseq saves key by key what is not float32 on the CPU.
    state = move_to_cpu(TRANSFORMER.build(share_layers=2).half().state_dict())
    assert chunks(state) == {}
    assert chunks(tie(state, 2)) == {"encoder": [(0, 1), (2, 3)], "decoder": [(0, 1), (2, 3)]}
    assert chunks(tie(state)) == {}, "in a model that shares nothing equal layers are two"


def test_the_flags_of_a_training() -> None:
    flags = [
        "--layerdrop-schedule",
        "learned",
        "--share-layers",
        "2",
        "--layerdrop-warmup-updates",
        "30",
    ]
    sizes = [*WIDTH, "--encoder-layers", "4", "--decoder-layers", "2"]
    model = build_model(
        "--arch", "layerdrop_transformer", *sizes, *flags, "--encoder-layerdrop", "0.3"
    )
    layers = model.encoder.layers
    assert (layers.chunk, layers.warmup, layers.learned) == (2, 30, model.encoder.layerdrop_gate)
    assert model.encoder.layerdrop_gate.target == 0.3
    assert [len(stack.layerdrop_gate.bias) for stack in stacks(model).values()] == [2, 1]
