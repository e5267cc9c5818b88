# SPDX-License-Identifier: MIT
"""Dropping inside a layer: the laws of the draws, masked weights against plain lines."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules.masks import keyed_generator
from fairseq_layerdrop.modules.structures import (
    SUBLAYERS,
    LayerStep,
    StructureRates,
    draw_inside,
    masked_call,
)

DEPTH, HEADS, UPDATES = 3, 4, 2000
ALL = StructureRates(sublayer=0.3, head=0.4, ffn=0.2, ffn_blocks=3, weight=0.1)


def bits(inside: tuple[LayerStep, ...]) -> dict[str, Tensor]:
    """What was drawn in one step, by structure: a row a layer, 1 for what runs."""
    found = {
        "sublayer": torch.tensor(
            [[float(name in layer.sublayers) for name in SUBLAYERS] for layer in inside]
        )
    }
    if inside[0].heads:
        found["head"] = torch.stack(
            [
                torch.cat([layer.heads[name] for name in ("self_attn", "encoder_attn")])
                for layer in inside
            ]
        )
    if inside[0].ffn is not None:
        found["ffn"] = torch.stack([layer.ffn for layer in inside])
    return found


def many(
    rates: StructureRates, updates: int = UPDATES, stack: str = "encoder"
) -> dict[str, Tensor]:
    """The same over many updates: updates x layers x places."""
    drawn = [
        bits(draw_inside(rates, DEPTH, HEADS, (1, update, 0, stack))) for update in range(updates)
    ]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def five_sigma(probability: float, count: int) -> float:
    return 5 * math.sqrt(probability * (1 - probability) / count)


# Rates


def test_rates_that_are_no_probabilities_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError) as refused:
        StructureRates(sublayer=1.5, head=-0.1, ffn=float("nan"), weight=2, ffn_blocks=0)
    for part in ("sublayer 1.5", "head -0.1", "ffn nan", "weight 2", "ffn_blocks 0"):
        assert part in str(refused.value)


@pytest.mark.parametrize("name", ["sublayer", "head", "ffn", "weight"])
def test_0_and_1_are_rates_and_any_of_them_makes_something_drop(name: str) -> None:
    assert not StructureRates(**{name: 0.0}).drop
    assert StructureRates(**{name: 1.0}).drop
    with pytest.raises(ValueError, match=f"got {name} 1.01$"):
        StructureRates(**{name: 1.01})


def test_in_a_warm_up_every_rate_is_a_share_of_itself_and_the_blocks_stay() -> None:
    assert ALL.at(0.5) == StructureRates(
        sublayer=0.15, head=0.2, ffn=0.1, ffn_blocks=3, weight=0.05
    )
    assert not ALL.at(0).drop
    assert ALL.at(1) == ALL


# The law of the draws


@pytest.mark.parametrize("name", ["sublayer", "head", "ffn"])
def test_each_part_of_each_layer_runs_at_its_rate(name: str) -> None:
    expected = 1 - getattr(ALL, name)
    drawn = many(ALL)[name]
    places = {"sublayer": 3, "head": 2 * HEADS, "ffn": ALL.ffn_blocks}[name]
    assert drawn.shape == (UPDATES, DEPTH, places)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    worst = float((drawn.mean(0) - expected).abs().max())
    assert worst < five_sigma(expected, UPDATES)
    assert abs(float(drawn.mean()) - expected) < five_sigma(expected, drawn.numel())


def test_structures_layers_and_places_draw_apart() -> None:
    """Any two of all the places: how often both run is the product of how often each does."""
    drawn = many(StructureRates(sublayer=0.5, head=0.5, ffn=0.5))
    columns = torch.cat([drawn[name].flatten(1) for name in drawn], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(columns.shape[1])
    assert columns.shape[1] == DEPTH * (3 + 2 * HEADS + 2)
    assert float(correlation.abs().max()) < 5 / math.sqrt(UPDATES)


def test_stacks_draw_apart() -> None:
    encoder, decoder = (
        many(StructureRates(sublayer=0.5, head=0.5, ffn=0.5), stack=s)
        for s in ("encoder", "decoder")
    )
    for name in encoder:
        both = torch.stack([encoder[name].flatten(), decoder[name].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / math.sqrt(both.shape[1])


@pytest.mark.parametrize("name", ["sublayer", "head", "ffn", "weight"])
def test_a_structure_draws_the_same_whatever_else_is_dropped(name: str) -> None:
    alone = StructureRates(**{name: getattr(ALL, name)}, ffn_blocks=ALL.ffn_blocks)
    for update in range(5):
        key = (1, update, 0, "encoder")
        one, all_of_them = (
            draw_inside(alone, DEPTH, HEADS, key),
            draw_inside(ALL, DEPTH, HEADS, key),
        )
        if name == "weight":
            assert [layer.weights for layer in one] == [layer.weights for layer in all_of_them]
        else:
            assert torch.equal(bits(one)[name], bits(all_of_them)[name])


def test_draws_hang_on_every_part_of_the_key_and_on_nothing_else() -> None:
    keys = [
        (1, 2, 3, "encoder"),
        (2, 2, 3, "encoder"),
        (1, 3, 3, "encoder"),
        (1, 2, 4, "encoder"),
        (1, 2, 3, "dec"),
    ]

    def seen(key: tuple[int | str, ...]) -> tuple[object, ...]:
        inside = draw_inside(
            StructureRates(sublayer=0.5, head=0.5, ffn=0.5, ffn_blocks=8, weight=0.5), 6, 8, key
        )
        masks = {name: tuple(mask.flatten().tolist()) for name, mask in bits(inside).items()}
        return (*masks.values(), tuple(layer.weights for layer in inside))

    drawn = [seen(key) for key in keys]
    torch.manual_seed(8)  # which is not theirs
    assert [seen(key) for key in keys] == drawn
    for structure in zip(*drawn, strict=True):
        assert len(set(structure)) == len(keys)


def test_torchs_own_generator_is_not_touched() -> None:
    layer, before = nn.Linear(4, 4), torch.get_rng_state()
    inside = draw_inside(ALL, DEPTH, HEADS, (1,))
    masked_call(
        layer, torch.ones(1, 4), columns={"weight": torch.ones(2)}, weights=inside[0].weights
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_at_rate_0_everything_runs_and_there_are_no_masks() -> None:
    assert draw_inside(StructureRates(), 2, HEADS, (1,)) == (LayerStep(), LayerStep())
    assert LayerStep() == LayerStep(frozenset({"self_attn", "encoder_attn", "ffn"}), {}, None, None)


def test_at_rate_1_nothing_runs() -> None:
    for update in range(20):
        drawn = bits(
            draw_inside(StructureRates(sublayer=1, head=1, ffn=1), DEPTH, HEADS, (update,))
        )
        assert not any(mask.any() for mask in drawn.values())


def test_each_layer_has_a_seed_of_its_own_for_its_weights() -> None:
    seeds = [
        layer.weights[0]
        for u in range(50)
        for layer in draw_inside(StructureRates(weight=0.1), 6, 1, (u,))
    ]
    assert len(set(seeds)) == 300
    assert {layer.weights[1] for layer in draw_inside(StructureRates(weight=0.1), 6, 1, (0,))} == {
        0.1
    }


# Masked weights


class Two(nn.Module):
    """A module of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 5)
        self.calls = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.calls += 1
        return self.two(torch.tanh(self.one(x))) * scale


def two() -> Two:
    torch.manual_seed(3)
    return Two()


def backward(output: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    output.square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_masked_columns_are_zeroed_columns_in_value_and_gradient() -> None:
    module, zeroed, x = two(), two(), torch.linspace(-1, 1, 18).view(3, 6)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    with torch.no_grad():
        zeroed.two.weight[:, [2, 3, 6, 7]] = 0
    got, expected = masked_call(module, x, columns={"two.weight": mask}), zeroed(x)
    assert torch.equal(got, expected)
    moved, reference = backward(got, module), backward(expected, zeroed)
    reference["two.weight"][:, [2, 3, 6, 7]] = 0  # what is masked has no gradient
    assert moved.keys() == reference.keys()
    assert [name for name in moved if not torch.equal(moved[name], reference[name])] == []
    assert not moved["one.weight"][[2, 3, 6, 7]].any() and not moved["one.bias"][[2, 3, 6, 7]].any()


@pytest.mark.parametrize(
    ("blocks", "groups"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (8, [1] * 8)], ids=str
)
def test_blocks_share_the_columns_out_in_order(blocks: int, groups: list[int]) -> None:
    layer, start = nn.Linear(8, 2, bias=False), 0
    nn.init.ones_(layer.weight)
    for block, size in enumerate(groups):
        mask = torch.zeros(blocks)
        mask[block] = 1
        read = masked_call(layer, torch.eye(8), columns={"weight": mask})[:, 0]
        assert read.nonzero().flatten().tolist() == list(range(start, start + size))
        start += size
    assert start == 8


def test_single_weights_are_masked_by_streams_of_their_own_and_no_bias_is() -> None:
    module, x = two(), torch.linspace(-1, 1, 18).view(3, 6)
    got = masked_call(module, x, weights=(9, 0.4))
    masks = [
        torch.rand(shape, generator=torch.Generator().manual_seed(9 + n)) >= 0.4
        for n, shape in ((0, (8, 6)), (1, (5, 8)))
    ]
    inner = torch.tanh(x @ (module.one.weight * masks[0]).T + module.one.bias)
    expected = inner @ (module.two.weight * masks[1]).T + module.two.bias
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    moved = backward(got, module)
    for name, mask in zip(("one.weight", "two.weight"), masks, strict=True):
        assert torch.equal(moved[name] != 0, mask)
    assert moved["one.bias"].all() and moved["two.bias"].all()


def test_single_weights_run_at_their_rate_anew_in_every_layer_and_the_same_in_a_recomputation() -> (
    None
):
    layer = nn.Linear(50, 40, bias=False)
    nn.init.ones_(layer.weight)
    streams = draw_inside(StructureRates(weight=0.3), 10, 1, (1, 2))

    def kept(stream: tuple[int, float]) -> Tensor:
        return masked_call(layer, torch.eye(50), weights=stream)

    masks = torch.stack([kept(inside.weights) for inside in streams])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert abs(float(masks.mean()) - 0.7) < five_sigma(0.7, masks.numel())
    for one, other in combinations(masks.flatten(1), 2):
        both = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        assert abs(both) < 5 / math.sqrt(one.numel())
    assert torch.equal(kept(streams[3].weights), masks[3])


def test_columns_and_single_weights_are_masked_together() -> None:
    layer, mask = nn.Linear(6, 4, bias=False), torch.tensor([0.0, 1.0])
    drawn = torch.rand((4, 6), generator=torch.Generator().manual_seed(5)) >= 0.5
    got = masked_call(layer, torch.eye(6), columns={"weight": mask}, weights=(5, 0.5))
    assert torch.equal(got.T, layer.weight * drawn * torch.tensor([0.0, 0, 0, 1, 1, 1]))


def test_a_masked_call_leaves_the_module_as_it_was() -> None:
    module = two()
    before = {name: (parameter, parameter.clone()) for name, parameter in module.named_parameters()}
    masked_call(
        module,
        torch.ones(1, 6),
        columns={"two.weight": torch.zeros(2)},
        weights=(1, 0.5),
        scale=2.0,
    )
    for name, parameter in module.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_without_masks_the_module_is_called_as_it_is() -> None:
    module, x = two(), torch.ones(2, 6)
    nothings: list[dict[str, Any]] = [{}, {"columns": {}}, {"columns": None, "weights": None}]
    for nothing in nothings:
        assert torch.equal(masked_call(module, x, scale=3.0, **nothing), module(x, 3.0))
    assert module.calls == 6


def test_a_mask_of_ones_changes_no_bit() -> None:
    module, x = two(), torch.linspace(-1, 1, 6).view(1, 6)
    got = masked_call(module, x, columns={"two.weight": torch.ones(3)}, weights=(4, 0.0))
    assert torch.equal(got, module(x))


def test_masks_follow_the_type_of_the_weights() -> None:
    layer = nn.Linear(4, 2).half()
    got = masked_call(
        layer,
        torch.ones(1, 4).half(),
        columns={"weight": torch.tensor([1.0, 0.0])},
        weights=(1, 0.5),
    )
    assert got.dtype == torch.float16


def test_the_streams_are_those_of_the_key() -> None:
    """Each structure's, named: a change here changes every training that is resumed."""
    key = (3, 7, 1, "decoder")
    (inside,) = draw_inside(StructureRates(sublayer=0.5, head=0.5, ffn=0.5, weight=0.5), 1, 2, key)

    def stream(name: str, *shape: int) -> Tensor:
        return torch.rand(shape, generator=keyed_generator(*key, name), dtype=torch.float64) >= 0.5

    runs = stream("sublayer", 3).tolist()
    assert inside.sublayers == {name for name, kept in zip(SUBLAYERS, runs, strict=True) if kept}
    assert torch.equal(inside.heads["self_attn"].bool(), stream("head", 2, 2)[0])
    assert torch.equal(inside.heads["encoder_attn"].bool(), stream("head", 2, 2)[1])
    assert torch.equal(inside.ffn.bool(), stream("ffn", 2))
