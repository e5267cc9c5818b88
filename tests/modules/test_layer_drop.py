# SPDX-License-Identifier: MIT
"""The layer list: loops see every layer, training really skips some, gradients stay whole."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList, Step
from fairseq_layerdrop.modules.structures import LayerStep, StructureRates, draw_inside

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
    """What a training of N updates draws, each of M micro-batches."""
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


@pytest.mark.parametrize(
    "part", [slice(0, 3), slice(None, None, 2), slice(-2, None), slice(0, 0)], ids=str
)
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
    assert draws(dropping(24, seed=1, stack="encoder")) == draws(
        dropping(24, seed=1, stack="encoder")
    )


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
    assert [first, layers.train().draw().active] == [
        undisturbed.draw().active,
        undisturbed.draw().active,
    ]


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
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(ours.parameters(), plain.parameters(), strict=True)
    )


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


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))]
)
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


# Rates of each layer, a warm-up, and neighbours that are one group


def runs(layers: LayerDropList, updates: int) -> list[float]:
    """How often each layer runs in this many updates."""
    counts = [0] * len(layers)
    for update in range(updates):
        layers.set_num_updates(update)
        for i in layers.draw().active:
            counts[i] += 1
    return [count / updates for count in counts]


def assert_near(found: list[float], expected: list[float], draws: int) -> None:
    """Within five deviations of the binomial law."""
    wrong = [
        (i, f, e)
        for i, (f, e) in enumerate(zip(found, expected, strict=True))
        if abs(f - e) > 5 * math.sqrt(e * (1 - e) / draws) + 1e-9
    ]
    assert wrong == []


def test_each_layer_runs_at_its_own_rate() -> None:
    rates = (0.0, 0.1, 0.5, 0.9, 1.0)
    layers = LayerDropList(linear_layers(5), rates=rates, min_layers=0)
    assert_near(runs(layers, 2000), [1 - rate for rate in rates], 2000)


def test_with_a_minimum_each_layer_runs_at_the_rate_of_the_truncated_law() -> None:
    """Two layers at 0.5 and 0.75, never both dropped: they run in 4/5 and 2/5 of the steps."""
    layers = LayerDropList(linear_layers(2), rates=(0.5, 0.75), min_layers=1)
    assert_near(runs(layers, 2000), [0.5 / 0.625, 0.25 / 0.625], 2000)
    assert layers.expected_depth == pytest.approx(0.75 / 0.625)


@pytest.mark.parametrize(
    ("update", "share"), [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (11, 1.0), (99, 1.0)]
)
def test_in_a_warm_up_the_rates_grow_from_nothing(update: int, share: float) -> None:
    layers = LayerDropList(linear_layers(2), rates=(0.4, 0.8), min_layers=0, warmup=10)
    counts = [0, 0]
    layers.set_num_updates(update)
    for _ in range(1000):  # micro-batches of one update
        for i in layers.draw().active:
            counts[i] += 1
    assert_near([count / 1000 for count in counts], [1 - 0.4 * share, 1 - 0.8 * share], 1000)


def test_without_a_warm_up_the_first_update_drops_already() -> None:
    layers = dropping(rate=1.0, min_layers=0)
    assert layers.draw().active == ()


def test_the_expected_depth_is_that_after_the_warm_up() -> None:
    assert dropping(4, warmup=1000, min_layers=0).expected_depth == pytest.approx(2)


@pytest.mark.parametrize(
    ("chunk", "min_layers", "least"), [(2, 0, 0), (2, 1, 2), (2, 3, 4), (3, 1, 3), (3, 4, 6)]
)
def test_a_chunk_runs_whole_or_not_at_all(chunk: int, min_layers: int, least: int) -> None:
    layers = dropping(rate=0.8, chunk=chunk, min_layers=min_layers)
    drawn = draws(layers, updates=100)
    assert all((i in active) == (i - i % chunk in active) for active in drawn for i in range(6))
    assert min(map(len, drawn)) == least
    assert len(set(drawn)) > 1 or least == 6


def test_chunks_run_at_their_rate_and_the_expected_depth_counts_layers() -> None:
    layers = LayerDropList(linear_layers(4), rates=(0.2, 0.2, 0.6, 0.6), min_layers=0, chunk=2)
    assert_near(runs(layers, 2000), [0.8, 0.8, 0.4, 0.4], 2000)
    assert layers.expected_depth == pytest.approx(2.4)
    assert dropping(4, chunk=2, min_layers=1).expected_depth == pytest.approx(2 * 4 / 3)


# What is dropped inside layers

STRUCTURES = StructureRates(sublayer=0.5, head=0.5, ffn=0.5, weight=0.5)


class Told(nn.Module):
    """A layer that notes what it was told of its inside."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[LayerStep | None] = []

    def forward(self, x: Tensor, keep: LayerStep | None = None) -> Tensor:
        self.told.append(keep)
        return x + 1


def telling(depth: int = 4, rate: float = 0.5, **options: Any) -> LayerDropList:
    options = {"structures": (STRUCTURES, 2), **options}
    return LayerDropList([Told() for _ in range(depth)], rates=(rate,) * depth, **options)


def facts(inside: LayerStep) -> tuple[Any, ...]:
    """The same as plain data, to be compared."""
    heads = sorted((name, mask.tolist()) for name, mask in inside.heads.items())
    return (
        sorted(inside.sublayers),
        heads,
        None if inside.ffn is None else inside.ffn.tolist(),
        inside.weights,
    )


def test_every_layer_that_runs_is_told_what_runs_inside_it() -> None:
    layers = telling(seed=3, stack="decoder")
    layers.set_num_updates(7)
    for micro_batch in range(3):
        step = layers.draw()
        with layers.running(step):
            for layer in layers:
                layer(torch.zeros(1))
        expected = draw_inside(STRUCTURES, 4, 2, (3, 7, micro_batch, "decoder"))
        for i in range(4):
            told = layers[i].told
            layers[i].told = []
            assert [facts(keep) for keep in told] == [facts(expected[i])] * (i in step.active)


def test_the_layers_that_run_are_those_that_run_without_structures() -> None:
    assert draws(telling(24, seed=5)) == draws(dropping(24, seed=5))


def test_structures_alone_leave_every_layer_running() -> None:
    layers = telling(rate=0.0)
    assert not layers.drops
    steps = [layers.draw() for _ in range(5)]
    assert {step.active for step in steps} == {(0, 1, 2, 3)}
    assert all(step.inside for step in steps)
    assert len({str([facts(inside) for inside in step.inside]) for step in steps}) == 5


def test_the_warm_up_holds_inside_layers_too() -> None:
    layers = telling(warmup=4)
    layers.set_num_updates(0)
    assert [inside for inside in layers.draw().inside if inside != LayerStep()] == []
    layers.set_num_updates(1)
    assert {inside.weights[1] for inside in layers.draw().inside} == {0.125}


@pytest.mark.parametrize("how", ["evaluation", "a fixed sub-network"])
def test_nothing_is_drawn_inside_layers_outside_training(how: str) -> None:
    layers = telling()
    if how == "evaluation":
        layers.eval()
    else:
        layers.keep = (0, 1, 2, 3)
    step = layers.draw()
    assert step == Step((0, 1, 2, 3), (), None)
    with layers.running(step):
        for layer in layers:
            layer(torch.zeros(1))
    assert [layers[i].told for i in range(4)] == [[None]] * 4


def test_draws_inside_layers_leave_torchs_own_generator_alone() -> None:
    layers, state = telling(), torch.get_rng_state()
    layers.draw()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_resumed_run_repeats_what_it_draws_inside_layers() -> None:
    def drawn(updates: range) -> list[str]:
        layers = telling(warmup=6)
        found = []
        for update in updates:
            layers.set_num_updates(update)
            steps = [layers.draw() for _ in range(2)]
            found += [
                str((step.active, [facts(inside) for inside in step.inside])) for step in steps
            ]
        return found

    straight = drawn(range(1, 9))
    assert straight[10:] == drawn(range(6, 9))
    assert len(set(straight)) == 16


def test_a_skipped_layer_s_stand_in_takes_what_a_layer_takes() -> None:
    layers, x = telling(), torch.ones(2)
    step = layers.draw()._replace(active=())
    with layers.running(step):
        assert torch.equal(next(iter(layers))(x, None, need_attn=True), x)
