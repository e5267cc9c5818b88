# SPDX-License-Identifier: MIT
"""Strategies: known answers for common depths, and what holds for all of them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_layerdrop.pruning.strategies import STRATEGIES

TABLE = [
    (6, "every", 2, "0 2 4"),
    (6, "every", 6, "0"),
    (6, "even", 3, "0 2 4"),
    (6, "even", 4, "0 1 3 4"),
    (6, "spread", 3, "0 3 5"),
    (6, "spread", 2, "0 5"),
    (6, "first", 2, "0 1"),
    (6, "last", 2, "4 5"),
    (12, "every", 2, "0 2 4 6 8 10"),
    (12, "even", 6, "0 2 4 6 8 10"),
    (12, "even", 8, "0 1 3 4 6 7 9 10"),
    (12, "spread", 6, "0 2 4 7 9 11"),
    (12, "first", 3, "0 1 2"),
    (12, "last", 3, "9 10 11"),
    (16, "every", 3, "0 3 6 9 12 15"),
    (16, "even", 8, "0 2 4 6 8 10 12 14"),  # the README of fairseq's examples/layerdrop
    (16, "even", 6, "0 2 5 8 10 13"),
    (16, "spread", 4, "0 5 10 15"),
    (16, "last", 1, "15"),
    (24, "every", 4, "0 4 8 12 16 20"),
    (24, "even", 6, "0 4 8 12 16 20"),
    (24, "even", 9, "0 2 5 8 10 13 16 18 21"),
    (24, "spread", 6, "0 5 9 14 18 23"),
    (24, "first", 1, "0"),
]


@st.composite
def targets(draw: st.DrawFn) -> tuple[int, int]:
    depth = draw(st.integers(1, 60))
    return depth, draw(st.integers(1, depth))


@pytest.mark.parametrize(("depth", "name", "target", "indices"), TABLE)
def test_known_answers(depth: int, name: str, target: int, indices: str) -> None:
    assert STRATEGIES[name](depth, target) == tuple(map(int, indices.split()))


@pytest.mark.parametrize("name", STRATEGIES)
@given(targets())
@settings(max_examples=200)
def test_indices_ascend_in_range_and_are_as_many_as_asked(
    name: str, target: tuple[int, int]
) -> None:
    depth, n = target
    if name == "spread" and n == 1 < depth:
        return  # it cannot hold the first and the last: refused, see below
    kept = STRATEGIES[name](depth, n)
    assert list(kept) == sorted(set(kept))
    assert kept[0] >= 0 and kept[-1] < depth
    assert len(kept) == (-(-depth // n) if name == "every" else n)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "every"])
def test_the_whole_depth_is_every_layer(name: str) -> None:
    assert STRATEGIES[name](12, 12) == tuple(range(12))


@given(targets())
def test_spread_holds_both_ends_with_gaps_that_differ_by_one_at_most(
    target: tuple[int, int],
) -> None:
    depth, n = target
    if n == 1:
        return
    kept = STRATEGIES["spread"](depth, n)
    gaps = {b - a for a, b in pairwise(kept)}
    assert (kept[0], kept[-1]) == (0, depth - 1)
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("target", [-1, 0, 7])
def test_a_target_outside_the_depth_is_refused(name: str, target: int) -> None:
    with pytest.raises(ValueError, match=rf"{name}.* 6, got {target}"):
        STRATEGIES[name](6, target)


def test_spread_of_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        STRATEGIES["spread"](6, 1)


@pytest.mark.parametrize("depth", [6, 12, 16, 24])
def test_every_2_drops_the_depths_divisible_by_2_counted_from_1(depth: int) -> None:
    dropped = {d for d in range(1, depth + 1) if d % 2 == 0}  # Fan et al. 2019, section 3.2
    kept = tuple(d - 1 for d in range(1, depth + 1) if d not in dropped)
    assert STRATEGIES["every"](depth, 2) == kept
