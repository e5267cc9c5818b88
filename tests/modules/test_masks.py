# SPDX-License-Identifier: MIT
"""Masks: their law against an enumeration of all subsets, and their randomness."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from fairseq_layerdrop.modules.masks import (
    draw_active,
    expected_depth,
    exponential_rates,
    keyed_generator,
    linear_rates,
    uniform_rates,
)

DRAWS = 4000
UNEVEN = (0.1, 0.2, 0.5, 0.8)


def law(rates: tuple[float, ...], min_layers: int) -> dict[tuple[int, ...], float]:
    """The probability of every set of layers, given that at least ``min_layers`` run."""
    sets = {}
    for runs in product((True, False), repeat=len(rates)):
        if sum(runs) >= min_layers:
            active = tuple(i for i, run in enumerate(runs) if run)
            sets[active] = math.prod(
                1 - rate if run else rate for run, rate in zip(runs, rates, strict=True)
            )
    total = sum(sets.values())
    return {active: probability / total for active, probability in sets.items()}


def draw_many(rates: tuple[float, ...], min_layers: int) -> Counter[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return Counter(
        draw_active(rates, min_layers=min_layers, generator=generator) for _ in range(DRAWS)
    )


def within_five_sigma(count: int, probability: float) -> bool:
    sigma = math.sqrt(DRAWS * probability * (1 - probability))
    return abs(count - DRAWS * probability) <= 5 * sigma + 1e-6


@pytest.mark.parametrize(
    "rates", [(0.2,) * 4, (0.5,) * 4, (0.9,) * 4, UNEVEN, (0.0, 0.5, 0.5, 1.0)], ids=str
)
@pytest.mark.parametrize("min_layers", [0, 1, 2, 4])
def test_every_set_of_layers_comes_as_often_as_the_law_says(
    rates: tuple[float, ...], min_layers: int
) -> None:
    if min_layers > sum(rate < 1 for rate in rates):
        return  # reachable only as a limit, see below
    probabilities = law(rates, min_layers)
    drawn = draw_many(rates, min_layers)
    assert drawn.keys() <= {active for active, probability in probabilities.items() if probability}
    assert [
        a
        for a, probability in probabilities.items()
        if not within_five_sigma(drawn[a], probability)
    ] == []


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_each_layer_of_a_deep_stack_runs_at_its_rate(rate: float) -> None:
    drawn = draw_many(uniform_rates(16, rate), 0)
    runs = [sum(count for active, count in drawn.items() if i in active) for i in range(16)]
    assert [i for i in range(16) if not within_five_sigma(runs[i], 1 - rate)] == []


def test_rate_0_runs_everything() -> None:
    assert set(draw_many((0.0,) * 6, 1)) == {(0, 1, 2, 3, 4, 5)}


def test_rate_1_without_a_minimum_runs_nothing() -> None:
    assert set(draw_many((1.0,) * 6, 0)) == {()}


@pytest.mark.parametrize("min_layers", [1, 3, 6])
def test_rate_1_runs_the_minimum_of_layers_chosen_evenly(min_layers: int) -> None:
    drawn = draw_many((1.0,) * 6, min_layers)
    sets = math.comb(6, min_layers)
    assert {len(active) for active in drawn} == {min_layers}
    assert len(drawn) == sets
    assert all(within_five_sigma(count, 1 / sets) for count in drawn.values())


def test_the_layers_come_in_order() -> None:
    assert all(list(active) == sorted(active) for active in draw_many((0.5,) * 8, 2))


@pytest.mark.parametrize("rates", [(0.2,) * 6, (0.5,) * 6, UNEVEN, (0.0,) * 3, (0.5,)], ids=str)
def test_the_expected_depth_is_the_mean_of_the_law(rates: tuple[float, ...]) -> None:
    for min_layers in range(len(rates) + 1):
        mean = sum(
            len(active) * probability for active, probability in law(rates, min_layers).items()
        )
        assert expected_depth(rates, min_layers=min_layers) == pytest.approx(mean)


@pytest.mark.parametrize(("min_layers", "depth"), [(0, 0), (1, 1), (3, 3), (6, 6)])
def test_the_expected_depth_at_rate_1_is_the_minimum(min_layers: int, depth: int) -> None:
    assert expected_depth((1.0,) * 6, min_layers=min_layers) == pytest.approx(depth)


@pytest.mark.parametrize("min_layers", [24, 40, 47])
def test_rate_1_in_a_very_deep_stack_keeps_its_minimum(min_layers: int) -> None:
    rates = (1.0,) * 48
    assert expected_depth(rates, min_layers=min_layers) == pytest.approx(min_layers)
    assert (
        len(draw_active(rates, min_layers=min_layers, generator=keyed_generator(0))) == min_layers
    )


def test_uniform_rates() -> None:
    assert uniform_rates(3, 0.2) == (0.2, 0.2, 0.2)
    assert uniform_rates(2, 0) == (0.0, 0.0)
    assert uniform_rates(2, 1) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("depth", "rates"),
    [(0, []), (1, [0.6]), (2, [0.3, 0.6]), (6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])],
    ids=["0", "1", "2", "6"],
)
def test_linear_rates_grow_by_the_same_step_to_the_rate_at_the_last_layer(
    depth: int, rates: list[float]
) -> None:
    assert linear_rates(depth, 0.6) == pytest.approx(rates)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 24])
def test_the_mean_of_linear_rates_and_their_ends(depth: int) -> None:
    assert sum(linear_rates(depth, 0.5)) / depth == pytest.approx(0.5 * (depth + 1) / (2 * depth))
    assert linear_rates(depth, 1)[-1] == 1
    assert linear_rates(depth, 0) == (0.0,) * depth


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 24])
def test_exponential_rates_are_layerskip_s(depth: int) -> None:
    rates = exponential_rates(depth, 0.5)
    assert rates[-1] == pytest.approx(0.5)
    for layer, rate in enumerate(rates[:-1]):
        assert rate == pytest.approx(0.5 * (math.exp(layer * math.log(2) / (depth - 1)) - 1))


@pytest.mark.parametrize("min_layers", [0, 1, 3])
def test_every_set_of_layers_comes_as_often_at_linear_rates(min_layers: int) -> None:
    rates = linear_rates(4, 0.8)
    probabilities, drawn = law(rates, min_layers), draw_many(rates, min_layers)
    assert [
        a
        for a, probability in probabilities.items()
        if not within_five_sigma(drawn[a], probability)
    ] == []


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("schedule", [uniform_rates, linear_rates, exponential_rates])
def test_what_is_no_probability_is_refused(
    schedule: Callable[[int, float], tuple[float, ...]], rate: float
) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 1\], got {rate}"):
        schedule(6, rate)


def stream(*key: int | str) -> list[float]:
    return torch.rand(4, generator=keyed_generator(*key)).tolist()


def test_the_same_key_gives_the_same_stream() -> None:
    assert stream(1, 20, 0, "encoder") == stream(1, 20, 0, "encoder")


def test_near_keys_share_nothing() -> None:
    near: list[Any] = [
        (1, 2, 3, "encoder"),
        (1, 2, 3, "decoder"),
        (1, 2, 4, "encoder"),
        (1, 3, 2, "encoder"),
        (2, 1, 3, "encoder"),
    ]
    near += [(12, 3, "encoder"), (1, 23, "encoder"), ("1", 2, 3, "encoder")]
    drawn = [number for key in near for number in stream(*key)]
    assert len(set(drawn)) == 4 * len(near)


def test_torchs_own_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    draw_active((0.5,) * 6, min_layers=1, generator=keyed_generator(1, 2))
    assert torch.equal(torch.get_rng_state(), before)
