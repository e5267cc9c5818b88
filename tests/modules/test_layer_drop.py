# SPDX-License-Identifier: MIT
"""The layer list: a loop sees every layer, training skips some for real, and the gradients stay whole."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList

DIM = 3


def linear_layers(depth: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(DIM, DIM) for _ in range(depth)]


def dropping(depth: int = 6, rate: float = 0.5, **options: Any) -> LayerDropList:
    return LayerDropList(linear_layers(depth), rates=(rate,) * depth, **options)


def run(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.tanh(layer(x))
    return x


def draws(layers: LayerDropList, updates: int = 3, forwards: int = 2) -> list[tuple[int, ...]]:
    """What a training of so many updates draws, each of so many micro-batches."""
    drawn = []
    for update in range(updates):
        layers.set_num_updates(update)
        drawn += [layers.draw().active for _ in range(forwards)]
    return drawn


def count_calls(layers: LayerDropList) -> list[int]:
    calls: list[int] = []
    for i in range(len(layers)):
        layers[i].register_forward_hook(lambda *_, i=i: calls.append(i))
    return calls


def pair(x: Tensor) -> tuple[Tensor, None]:
    return x, None


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_loop_sees_all_layers_always(mode: str) -> None:
    modules = linear_layers(6)
    layers = getattr(LayerDropList(modules, rates=(1.0,) * 6, min_layers=0), mode)()
    for _ in range(20):
        assert list(layers) == modules
    assert len(layers) == 6
    assert [i for i, layer in enumerate(modules) if layer in layers] == list(range(6))
    assert [layers[i] for i in (0, 5, -1)] == [modules[0], modules[5], modules[5]]


@pytest.mark.parametrize("part", [slice(0, 3), slice(None, None, 2), slice(-2, None), slice(0, 0)], ids=str)
def test_a_slice_is_a_plain_list_of_the_right_layers(part: slice) -> None:
    modules = linear_layers(6)
    sliced = LayerDropList(modules, rates=(0.5,) * 6)[part]
    assert type(sliced) is nn.ModuleList
    assert list(sliced) == modules[part]


def test_the_state_dict_is_that_of_a_plain_list() -> None:
    ours, plain = dropping().state_dict(), nn.ModuleList(linear_layers(6)).state_dict()
    assert list(ours) == list(plain)
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_draws_are_repeated_under_the_same_key() -> None:
    assert draws(dropping(24, seed=1, stack="encoder")) == draws(dropping(24, seed=1, stack="encoder"))


def test_draws_differ_by_seed_stack_update_and_forward() -> None:
    drawn = draws(dropping(24, seed=1, stack="encoder"))
    drawn += draws(dropping(24, seed=2, stack="encoder"))
    drawn += draws(dropping(24, seed=1, stack="decoder"))
    assert len(set(drawn)) == len(drawn) == 18


def test_a_resumed_run_repeats_the_draws_of_its_updates() -> None:
    resumed = dropping(24)
    resumed.set_num_updates(2)
    assert [resumed.draw().active, resumed.draw().active] == draws(dropping(24))[-2:]


def test_being_told_the_same_update_twice_changes_nothing() -> None:
    told_often = dropping(24)
    told_often.set_num_updates(5)
    first = told_often.draw().active
    told_often.set_num_updates(5)
    second = told_often.draw().active
    told_once = dropping(24)
    told_once.set_num_updates(5)
    assert [first, second] == [told_once.draw().active, told_once.draw().active]


def test_evaluation_runs_everything_and_draws_nothing() -> None:
    layers = dropping(24)
    first = layers.draw().active
    state = torch.get_rng_state()
    layers.eval()
    assert {layers.draw().active for _ in range(5)} == {tuple(range(24))}
    run(layers, torch.zeros(1, DIM))
    assert torch.equal(torch.get_rng_state(), state)
    undisturbed = dropping(24)
    assert [first, layers.train().draw().active] == [undisturbed.draw().active, undisturbed.draw().active]


def test_training_leaves_torchs_own_generator_alone() -> None:
    layers = dropping()
    state = torch.get_rng_state()
    layers.draw()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": 0.5, "min_layers": 6}], ids=str)
def test_where_nothing_can_be_dropped_nothing_is(options: dict[str, Any]) -> None:
    layers = dropping(**options)
    assert not layers.drops
    assert {layers.draw().active for _ in range(5)} == {tuple(range(6))}


def test_at_least_the_minimum_runs() -> None:
    layers = dropping(rate=0.9, min_layers=3)
    assert min(map(len, draws(layers, updates=50))) == 3


def test_within_running_stand_ins_take_the_dropped_places() -> None:
    layers = dropping()
    with layers.running((0, 3, 5)):
        met = list(layers)
        assert len(layers) == len(met) == 6
    assert [i for i in range(6) if met[i] is layers[i]] == [0, 3, 5]
    assert list(layers) == [layers[i] for i in range(6)]


def test_running_ends_on_exceptions() -> None:
    layers = dropping()
    with pytest.raises(RuntimeError, match="in the forward"), layers.running((0,)):
        raise RuntimeError("in the forward")
    assert list(layers) == [layers[i] for i in range(6)]


def test_running_nests() -> None:
    layers = dropping()

    def running() -> list[int]:
        return [i for i, layer in enumerate(layers) if layer is layers[i]]

    with layers.running((0, 1)):
        with layers.running((4,)):
            assert running() == [4]
        assert running() == [0, 1]


def test_a_dropped_layer_is_not_called() -> None:
    layers = dropping()
    calls = count_calls(layers)
    with layers.running((1, 4)):
        run(layers, torch.zeros(2, DIM))
    assert calls == [1, 4]


def test_dropped_layers_get_gradients_of_zero_and_the_others_their_own() -> None:
    layers = dropping()
    with layers.running((1, 4)):
        run(layers, torch.ones(2, DIM)).sum().backward()
    for i in range(6):
        gradients = [parameter.grad for parameter in layers[i].parameters()]
        assert None not in gradients
        assert any(gradient.abs().sum() for gradient in gradients) == (i in (1, 4))


def test_where_every_layer_is_dropped_all_gradients_are_zero() -> None:
    layers = dropping(min_layers=0)
    x = torch.ones(2, DIM, requires_grad=True)
    with layers.running(()):
        for layer in layers:
            x = layer(x)
    x.sum().backward()
    assert {parameter.grad.abs().sum().item() for parameter in layers.parameters()} == {0.0}


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_dropped_layer_passes_its_input_on_whatever_else_it_is_called_with(mode: str) -> None:
    layers = getattr(dropping(), mode)()
    x = torch.randn(2, DIM)
    with layers.running(()):
        first = next(iter(layers))
        assert torch.equal(first(x), x)
        assert torch.equal(first(x, None, encoder_padding_mask=None, need_attn=True), x)


def test_what_a_dropped_layer_returns_can_be_told() -> None:
    layers = dropping(skipped=pair)
    x = torch.randn(2, DIM)
    with layers.running(()):
        passed, nothing = next(iter(layers))(x)
    assert torch.equal(passed, x)
    assert nothing is None


def test_the_gradient_of_the_input_is_that_of_the_running_layers_alone() -> None:
    layers = dropping()
    x, y = (torch.linspace(-1, 1, 2 * DIM).view(2, DIM).requires_grad_() for _ in range(2))
    with layers.running((1, 4)):
        out = x
        for layer in layers:
            out = layer(out)
    layers[4](layers[1](y)).square().sum().backward()
    out.square().sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_frozen_parameters_of_a_dropped_layer_stay_without_gradient() -> None:
    layers = dropping()
    layers[0].weight.requires_grad_(False)
    with layers.running(()):
        next(iter(layers))(torch.ones(1, DIM)).sum().backward()
    assert layers[0].weight.grad is None
    assert layers[0].bias.grad is not None


def test_at_rate_0_outputs_and_gradients_are_those_of_a_plain_loop_bit_for_bit() -> None:
    ours, plain = dropping(rate=0.0), nn.ModuleList(linear_layers(6))
    x = torch.linspace(-1, 1, 2 * DIM).view(2, DIM)
    with ours.running(ours.draw()):
        out = run(ours, x)
    expected = run(plain, x)
    assert torch.equal(out, expected)
    out.sum().backward()
    expected.sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_keep_fixes_the_layers_and_draws_nothing(mode: str) -> None:
    layers = getattr(dropping(24), mode)()
    layers.keep = (0, 5, 7)
    assert {layers.draw().active for _ in range(5)} == {(0, 5, 7)}
    layers.keep = None
    assert layers.train().draw().active == dropping(24).draw().active


@pytest.mark.parametrize("min_layers", [-1, 7])
def test_a_minimum_that_does_not_fit_the_depth_is_refused(min_layers: int) -> None:
    with pytest.raises(ValueError, match=f"0-6.* got {min_layers}"):
        dropping(min_layers=min_layers)


@pytest.mark.parametrize("rates", [(0.5,), (0.5,) * 7], ids=len)
def test_there_must_be_one_rate_a_layer(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=f"6, got {len(rates)}"):
        LayerDropList(linear_layers(6), rates=rates)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
def test_a_copy_is_complete_and_its_own(duplicate: Any) -> None:
    layers = dropping(24, seed=3, stack="decoder", skipped=pair)
    layers.set_num_updates(4)
    layers.draw()
    twin = duplicate(layers)
    assert type(twin) is LayerDropList
    assert twin[0] is not layers[0]
    assert torch.equal(twin[0].weight, layers[0].weight)
    assert [twin.draw().active, twin.draw().active] == [layers.draw().active, layers.draw().active]


def test_it_prints_its_rates() -> None:
    assert "rates=(0.5, 0.5), min_layers=1" in repr(dropping(2))


def test_the_expected_depth_takes_the_minimum_into_account() -> None:
    assert dropping(2, min_layers=0).expected_depth == pytest.approx(1)
    assert dropping(2, min_layers=1).expected_depth == pytest.approx(4 / 3)


def test_an_empty_list() -> None:
    layers = LayerDropList(min_layers=0)
    assert layers.draw().active == ()
    assert list(layers) == []
