# SPDX-License-Identifier: MIT
"""Learned rates: the mean is the target, gradients equal those of plain lines."""

import ast
import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList, Step
from fairseq_layerdrop.modules.learned import (
    HIGHEST_RATE,
    KeepProbabilityGradient,
    LearnedRates,
    share_out,
)

DIM = 5
SCORES = {
    "equal": lambda depth: torch.zeros(depth),
    "near": lambda depth: torch.linspace(-1, 1, depth),
    "far": lambda depth: torch.linspace(-40, 40, depth),
    "one above all": lambda depth: torch.eye(depth)[depth // 2] * 1e6,
    "one below all": lambda depth: torch.eye(depth)[0] * -1e6,
    "two above all": lambda depth: torch.arange(depth).ge(depth - 2) * 1e4,
}


def gate_of(scores: Tensor, target: float, width: int = DIM) -> LearnedRates:
    gate = LearnedRates(len(scores), width, target=target)
    with torch.no_grad():
        gate.bias.copy_(scores)
    return gate


# Rates


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("target", [0.0, 0.1, 0.5, 0.9, HIGHEST_RATE])
@pytest.mark.parametrize("depth", [1, 2, 6, 24])
def test_the_mean_is_the_target_and_no_rate_is_out_of_range(
    depth: int, target: float, scores: str
) -> None:
    rates = gate_of(SCORES[scores](depth), target).rates()
    assert abs(float(rates.mean().detach()) - target) < 1e-9
    assert (rates >= -1e-12).all() and (rates <= HIGHEST_RATE).all()
    assert (
        rates.diff()[SCORES[scores](depth).diff() > 0] >= -1e-12
    ).all()  # they rise with the scores


def test_rates_are_a_softmax_of_the_scores_where_none_is_too_high() -> None:
    shares = [1, math.e, math.e**2, 1]
    expected = [4 * 0.3 * share / sum(shares) for share in shares]
    assert gate_of(torch.tensor([0.0, 1.0, 2.0, 0.0]), 0.3).rates().tolist() == pytest.approx(
        expected
    )


def test_what_is_too_high_is_shared_out_among_the_others_in_turn() -> None:
    # Of 2.2, the first layer's share would be 2.1; 1.25 is left for the others, of which the second
    # would have 1.01.
    rates = gate_of(torch.tensor([5.0, 2.0, 0.0, -1.0, -1.0]), 0.44).rates().tolist()
    rest, others = 2.2 - 2 * HIGHEST_RATE, [1, math.exp(-1), math.exp(-1)]
    assert rates == pytest.approx(
        [HIGHEST_RATE] * 2 + [rest * share / sum(others) for share in others]
    )


def test_a_new_gate_has_the_target_for_every_layer() -> None:
    assert LearnedRates(4, DIM, target=0.3).rates().tolist() == pytest.approx([0.3] * 4, abs=1e-12)


@pytest.mark.parametrize("target", [-0.1, 0.96, 1.0, float("nan")])
def test_a_target_that_rates_cannot_have_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 0.95\], got a target of {target}"):
        LearnedRates(4, DIM, target=target)


@pytest.mark.parametrize(
    "scores", [[0.3, -0.2, 1.0, 0.1], [6.0, 0.2, -0.1, 0.4], [7.0, 5.0, 0.0, 0.5]], ids=str
)
def test_the_gradient_of_the_shares_is_that_of_differences(scores: list[float]) -> None:
    """None, one and two of them at the highest rate."""
    weights = torch.linspace(1, 3, 4, dtype=torch.float64)
    start = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        (share_out(start, 2.0, most=HIGHEST_RATE) * weights).sum(), start
    )
    for i in range(4):
        step = torch.eye(4, dtype=torch.float64)[i] * 1e-6
        ahead, behind = (
            float((share_out(start.detach() + s, 2.0, most=HIGHEST_RATE) * weights).sum())
            for s in (step, -step)
        )
        assert float(gradient[i]) == pytest.approx((ahead - behind) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("scores", SCORES)
def test_gradients_are_finite_at_any_scores(scores: str) -> None:
    gate = gate_of(SCORES[scores](6), 0.5)
    (gate.rates() * torch.arange(6)).sum().backward()
    assert torch.isfinite(gate.bias.grad).all() and torch.isfinite(gate.weight.grad).all()


# The layer's activation


def test_the_score_is_a_non_linear_function_of_the_mean_activation() -> None:
    gate = LearnedRates(2, 3, target=0.2)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]))
        gate.bias.copy_(torch.tensor([0.25, -1.0]))
        gate.activation.copy_(torch.tensor([[0.1, 0.2, 5.0], [1.0, -1.0, 0.0]]))
    expected = [
        math.tanh(0.1) - 2 * math.tanh(0.2) + 0.5 * math.tanh(5) + 0.25,
        3 * math.tanh(-1) - 1,
    ]
    assert gate.scores().tolist() == pytest.approx(expected, rel=1e-5)


def test_activations_are_a_running_mean_over_steps_positions_and_sentences() -> None:
    gate, expected = LearnedRates(2, 3, target=0.2), torch.zeros(3)
    torch.manual_seed(1)
    for _ in range(5):
        x = torch.randn(4, 2, 3, requires_grad=True)
        gate.observe(1, x)
        expected = 0.9 * expected + 0.1 * x.detach().reshape(8, 3).mean(0)
    torch.testing.assert_close(gate.activation[1], expected)
    assert not gate.activation[0].any()
    assert not gate.activation.requires_grad


def test_the_running_mean_is_saved_with_the_parameters() -> None:
    assert set(LearnedRates(2, 3, target=0.2).state_dict()) == {"weight", "bias", "activation"}


def test_half_precision_is_observed_in_single() -> None:
    x = (
        torch.tensor([1.0, 1.0009765625]).half().view(2, 1, 1)
    )  # neighbours, with no half between them
    gate = LearnedRates(1, 1, target=0.2)
    gate.observe(0, x, momentum=1.0)
    assert gate.activation.item() == 1.00048828125
    gate.half().observe(
        0, torch.full((40_000, 1, 1), 60_000.0).half(), momentum=1.0
    )  # whose sum is not a half
    assert gate.activation.item() == 60_000
    assert gate.rates().dtype == torch.float64


# The slope


def test_the_output_passes_through_unchanged_and_so_does_its_gradient() -> None:
    x, output = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    through = KeepProbabilityGradient.apply(
        output, x, output, torch.tensor(0.5, dtype=torch.float64, requires_grad=True), 1.0
    )
    assert torch.equal(through, output)
    through.backward(torch.arange(6.0).view(2, 3))
    assert torch.equal(output.grad, torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_the_probability_has_the_gradient_of_what_the_layer_adds(kind: torch.dtype) -> None:
    x, output = (
        torch.tensor([[1.0, 2.0]]).to(kind),
        torch.tensor([[4.0, 1.5]]).to(kind).requires_grad_(),
    )
    keep = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    KeepProbabilityGradient.apply(output, x, output, keep, 1.25).backward(
        torch.tensor([[0.5, 2.0]]).to(kind)
    )
    assert keep.grad.dtype == torch.float64
    assert float(keep.grad) == pytest.approx((0.5 * 3 - 2 * 0.5) * 1.25, rel=1e-6)


# In a list of layers


class Block(nn.Module):
    """A residual block; one that is useless adds nothing."""

    def __init__(self, *, useless: bool = False, width: int = DIM) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.useless = useless
        self.calls, self.looks = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.looks += not torch.is_grad_enabled()
        return x if self.useless else x + torch.tanh(self.inner(x))


class Adds(nn.Module):
    """A layer that adds always the same; it has nothing to learn."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        return x + self.row


def learning(depth: int = 4, target: float = 0.4, **options: Any) -> LayerDropList:
    torch.manual_seed(2)
    groups = depth // options.get("chunk", 1)
    gate = LearnedRates(groups, DIM, target=target)
    with torch.no_grad():
        gate.weight.normal_(std=0.3)
        gate.bias.normal_(std=0.5)
        gate.activation.normal_()
    blocks = [Block() for _ in range(groups)]
    layers = [blocks[i // options.get("chunk", 1)] for i in range(depth)]
    return LayerDropList(layers, rates=(target,) * depth, learned=gate, **options)


def forward(layers: LayerDropList, x: Tensor, step: Any) -> Tensor:
    with layers.running(step):
        for layer in layers:
            x = layer(x)
    return x


def inputs() -> Tensor:
    return torch.randn(3, 2, DIM, generator=torch.Generator().manual_seed(7))


def test_the_gate_is_none_of_the_layers() -> None:
    layers = learning()
    assert not any("gate" in key or "activation" in key for key in layers.state_dict())
    assert len(list(layers.parameters())) == 8
    assert layers.learned is not None and layers.drops


def test_the_forward_s_value_is_that_of_the_same_draw_without_a_gate() -> None:
    layers = learning()
    for update in range(10):
        layers.set_num_updates(update)
        step = layers.draw()
        plain = LayerDropList([layers[i] for i in range(4)])
        assert torch.equal(forward(layers, inputs(), step), forward(plain, inputs(), step.active))


def test_of_what_is_dropped_one_layer_is_looked_at_and_the_others_are_not_computed() -> None:
    layers = learning()
    sizes = set()
    for update in range(20):
        layers.set_num_updates(update)
        for i in range(4):
            layers[i].calls, layers[i].looks = 0, 0
        step = layers.draw()
        forward(layers, inputs(), step).sum().backward()
        looked_at = [] if step.probe is None else [step.probe]
        assert [i for i in range(4) if layers[i].calls] == sorted([*step.active, *looked_at])
        assert [i for i in range(4) if layers[i].looks] == looked_at  # forward only
        assert (step.probe is None) == (len(step.active) == 4)
        sizes.add(len(step.active))
    assert len(sizes) > 1


def test_the_look_is_drawn_from_the_key_and_evenly() -> None:
    def drawn(**options: Any) -> list[int | None]:
        layers, found = learning(min_layers=0, **options), []
        layers.learned.load_state_dict(LearnedRates(4, DIM, target=0.4).state_dict())
        state = torch.get_rng_state()
        for update in range(600):
            layers.set_num_updates(update)
            found.append(layers.draw().probe)
        assert torch.equal(torch.get_rng_state(), state)
        return found

    one = drawn()
    assert one == drawn()
    assert one != drawn(seed=2) and one != drawn(stack="decoder")
    counts = [one.count(i) for i in range(4)]
    assert all(
        abs(count - sum(counts) / 4) < 5 * math.sqrt(sum(counts) * 3 / 16) for count in counts
    )


def test_the_look_leaves_no_trace_in_output_gradients_and_random_numbers() -> None:
    found = []
    for probe in (2, None):
        plain = learning()
        blocks = [nn.Sequential(plain[i], nn.Dropout(0.5)) for i in range(4)]
        layers = LayerDropList(blocks, rates=(0.4,) * 4, learned=plain.learned)
        torch.manual_seed(1)
        output = forward(layers, inputs(), layers.draw()._replace(active=(1, 3), probe=probe))
        output.square().sum().backward()
        found.append(
            [output, torch.get_rng_state(), *(parameter.grad for parameter in layers.parameters())]
        )
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_of_a_quadratic_loss_the_mean_gradient_is_the_true_one() -> None:
    """Over all draws and probes: E[L | the layer runs] - E[L | it does not], of each layer."""
    keep = torch.tensor([0.3, 0.6, 0.85], dtype=torch.float64)
    added = torch.randn(3, DIM, generator=torch.Generator().manual_seed(1))
    target = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(2))
    layers = LayerDropList(
        [Adds(row) for row in added], rates=(0.5,) * 3, learned=LearnedRates(3, DIM, target=0.5)
    )
    expected, mean = torch.zeros(2, 3, dtype=torch.float64)
    for runs in itertools.product((False, True), repeat=3):
        active, dropped = ([i for i in range(3) if runs[i] is which] for which in (True, False))
        law = math.prod(float(k if run else 1 - k) for k, run in zip(keep, runs, strict=True))
        loss = float((added[active].sum(0) - target).square().sum())
        for i in range(3):
            expected[i] += law * loss * (1 / keep[i] if runs[i] else -1 / (1 - keep[i]))
        for probe in dropped or [None]:
            k = keep.clone().requires_grad_()
            output = forward(layers, torch.zeros(1, 1, DIM), Step(tuple(active), (), k, probe))
            (output - target).square().sum().backward()
            mean += law * k.grad / max(len(dropped), 1)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5)


def reference_gradient(layers: LayerDropList, step: Step, warm: float) -> tuple[Tensor, Tensor]:
    """The gradients of the gate's bias and weight, from what is documented alone."""
    active, probe = step.active, step.probe
    gate, chunk = layers.learned, layers.chunk
    assert gate is not None
    bias, weight = (p.detach().double().requires_grad_() for p in (gate.bias, gate.weight))
    scores = bias + (weight * torch.tanh(gate.activation.double())).sum(1)
    keep = 1 - warm * gate.target * len(bias) * torch.softmax(scores, 0)
    states = [inputs().requires_grad_()]
    for i in active:
        states.append(layers[i](states[-1]))
        states[-1].retain_grad()
    states[-1].square().sum().backward()
    slope = torch.zeros(len(bias), dtype=torch.float64)
    for n, i in enumerate(active):
        effect = (states[n + 1].grad * (states[n + 1] - states[n])).sum()
        slope[i // chunk] += float(effect.detach()) / float(2 * keep[i // chunk].detach())
    if probe is not None:
        at = states[sum(i < probe for i in active)]
        effect = (at.grad * (layers[probe](at) - at)).sum() * (len(layers) - len(active))
        slope[probe // chunk] += float(effect.detach()) / float(
            2 * (1 - keep[probe // chunk].detach())
        )
    (keep * slope).sum().backward()
    return bias.grad, weight.grad


@pytest.mark.parametrize("options", [{}, {"warmup": 8}, {"chunk": 2}], ids=str)
def test_the_gate_s_gradient_is_the_estimator_s(options: dict[str, Any]) -> None:
    """Both slopes, through the keep rates, the softmax and the scores."""
    for update in range(2, 6):
        layers = learning(**options)
        layers.set_num_updates(update)
        bias, weight = reference_gradient(
            layers, layers.draw(), min(1.0, update / options.get("warmup", 1))
        )
        layers = learning(**options)
        layers.set_num_updates(update)
        forward(layers, inputs(), layers.draw()).square().sum().backward()
        assert layers.learned is not None
        torch.testing.assert_close(layers.learned.bias.grad, bias.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layers.learned.weight.grad, weight.float(), rtol=1e-4, atol=1e-6)
        assert bias.abs().max() > 1e-3


def test_the_layers_gradients_are_those_without_a_gate() -> None:
    one, other = learning(), learning()
    step = one.draw()
    forward(one, inputs(), step).square().sum().backward()
    forward(other, inputs(), step.active).square().sum().backward()
    for mine, plain in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, plain.grad)


def test_the_rates_are_those_of_the_draws() -> None:
    layers = learning(6, min_layers=0)
    gate = layers.learned
    assert gate is not None
    counts = torch.zeros(6)
    for update in range(1500):
        layers.set_num_updates(update)
        counts[list(layers.draw().active)] += 1
    expected = 1 - gate.rates().detach()
    sigma = (expected * (1 - expected) / 1500).sqrt()
    assert ((counts / 1500 - expected).abs() <= 5 * sigma + 1e-9).all()
    assert expected.max() - expected.min() > 0.3


def test_activations_are_those_that_reach_a_layer_whether_it_runs_or_not() -> None:
    layers = learning(3, 0.3)
    gate = layers.learned
    assert gate is not None
    before, step = gate.activation.clone(), layers.draw()._replace(active=(0, 2), probe=None)
    x = inputs()
    forward(layers, x, step)
    reached = [x, layers[0](x), layers[0](x)]  # layer 1 passed it on
    for i in range(3):
        expected = 0.9 * before[i] + 0.1 * reached[i].detach().mean((0, 1))
        torch.testing.assert_close(gate.activation[i], expected)


def test_chunks_have_one_rate_and_run_together() -> None:
    layers = learning(6, chunk=2)
    for update in range(20):
        layers.set_num_updates(update)
        step = layers.draw()
        assert step.keep is not None and len(step.keep) == 3
        assert all((2 * i in step.active) == (2 * i + 1 in step.active) for i in range(3))


@pytest.mark.parametrize("probe", [2, None])
def test_where_no_layer_runs_the_gate_has_gradients_still(probe: int | None) -> None:
    layers = learning(min_layers=0)
    step = layers.draw()._replace(active=(), probe=probe)
    forward(layers, inputs().requires_grad_(), step).sum().backward()
    gate = layers.learned
    assert gate is not None
    for parameter in layers.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    for parameter in gate.parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()) == (probe is not None)


def test_evaluation_has_no_gate() -> None:
    layers = learning().eval()
    gate = layers.learned
    assert gate is not None
    before = gate.activation.clone()
    step = layers.draw()
    assert (step.active, step.keep) == ((0, 1, 2, 3), None)
    forward(layers, inputs(), step)
    assert torch.equal(gate.activation, before)


def test_a_fixed_sub_network_has_no_gate_either() -> None:
    layers = learning()
    layers.keep = (0, 3)
    assert (layers.draw().active, layers.draw().keep) == ((0, 3), None)


def test_a_copy_of_the_stack_draws_from_its_own_gate() -> None:
    stack = nn.Module()
    stack.layers = learning()
    stack.layerdrop_gate = stack.layers.learned
    twin = copy.deepcopy(stack)
    assert twin.layers.learned is twin.layerdrop_gate is not stack.layerdrop_gate


def test_the_warm_up_scales_every_learned_rate() -> None:
    layers = learning(warmup=10)
    gate = layers.learned
    assert gate is not None
    for update, share in ((0, 0.0), (5, 0.5), (10, 1.0), (15, 1.0)):
        layers.set_num_updates(update)
        step = layers.draw()
        assert step.keep is not None
        torch.testing.assert_close(1 - step.keep, share * gate.rates())
        if update == 0:
            assert step.active == (0, 1, 2, 3)


# What is learned


def learn(
    blocks: list[nn.Module], *, loss: Any, updates: int, target: float, width: int, seed: int = 0
) -> list[float]:
    """The rates after training gate and layers, with the mean checked at every update."""
    gate = LearnedRates(len(blocks), width, target=target)
    layers = LayerDropList(blocks, rates=(target,) * len(blocks), learned=gate, seed=seed)
    parameters = [p for p in (*layers.parameters(), *gate.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    generator = torch.Generator().manual_seed(seed + 1)
    for update in range(updates):
        layers.set_num_updates(update)
        step = layers.draw()
        optimizer.zero_grad()
        loss(lambda x, step=step: forward(layers, x, step), generator).backward()
        optimizer.step()
        assert abs(float(gate.rates().mean().detach()) - target) < 1e-6
    return gate.rates().tolist()


@pytest.mark.parametrize("useless", range(4))
def test_among_fixed_layers_the_useless_gets_the_highest_rate_and_the_most_useful_the_lowest(
    useless: int,
) -> None:
    amounts = [0.5, 1.0, 1.5]
    amounts.insert(useless, 0.0)

    def loss(run: Any, _: torch.Generator) -> Tensor:
        return -torch.log_softmax(run(torch.zeros(1, 1, 3)), -1)[..., 0].mean()

    rates = learn(
        [Adds(amount * torch.eye(3)[0]) for amount in amounts],
        loss=loss,
        updates=100,
        target=0.3,
        width=3,
    )
    assert sorted(range(4), key=rates.__getitem__) == sorted(range(4), key=lambda i: -amounts[i])
    assert rates[useless] > 0.4


def test_among_layers_that_learn_the_useless_one_gets_the_highest_rate() -> None:
    """Where layers learn too, the slope where they run vanishes: their scale stops there."""
    width, found = 8, []
    teacher = 1.5 * torch.randn(width, width, generator=torch.Generator().manual_seed(0))

    def loss(run: Any, generator: torch.Generator) -> Tensor:
        x = torch.randn(16, 2, width, generator=generator)
        return (run(x) - (x + 2 * torch.tanh(x @ teacher))).square().mean()

    for useless in range(4):
        torch.manual_seed(useless)
        blocks: list[nn.Module] = [Block(useless=i == useless, width=width) for i in range(4)]
        rates = learn(blocks, loss=loss, updates=150, target=0.3, width=width)
        found.append(max(range(4), key=rates.__getitem__))
    assert found == [0, 1, 2, 3]


@pytest.mark.slow
def test_two_processes_that_see_different_data_draw_alike(tmp_path: Path) -> None:
    script = Path(__file__).with_name("agree_script.py")
    outputs = [tmp_path / "0", tmp_path / "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), tmp_path / "store", out], env=environment
        )
        for rank, out in enumerate(outputs)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    one, two = (out.read_text() for out in outputs)
    assert one == two
    assert len(set(map(repr, ast.literal_eval(one)))) > 5, "the rates moved"


def test_what_a_checkpoint_of_several_processes_holds_is_what_they_agreed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers, seen = learning(), []
    gate = layers.learned
    assert gate is not None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: seen.append(tensor.clone()))
    forward(layers, inputs(), layers.draw()).sum().backward()
    assert torch.equal(seen[-1], gate.activation)
