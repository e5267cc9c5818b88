# SPDX-License-Identifier: MIT
"""Methods of search against a few lines that try everything, on tables of random scores."""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.search import Screened, Trial, beam, exhaustive, space, space_size

Kept = tuple[tuple[int, ...], ...]
Depths = dict[str, int]


class Table:
    """A score for every sub-network, drawn from a seed; remembers what it was asked for."""

    def __init__(self, seed: int, values: int = 10**9) -> None:
        self.seed, self.values = seed, values
        self.asked: list[list[Kept]] = []

    def of(self, kept: Kept) -> float:
        return float(random.Random(f"{self.seed} {kept}").randrange(self.values))

    def __call__(self, plans: Sequence[PruningPlan]) -> list[float]:
        self.asked.append([key(plan) for plan in plans])
        return [self.of(key(plan)) for plan in plans]


def key(plan: PruningPlan) -> Kept:
    return tuple(plan.kept.values())


def everything(depths: Mapping[str, int]) -> list[Kept]:
    """Every sub-network, by bits."""
    stacks = [
        [tuple(i for i in range(n) if bits >> i & 1) for bits in range(1, 2**n)]
        for n in depths.values()
    ]
    return list(itertools.product(*stacks))


def has(kept: Kept, depths: Depths, counts: Depths) -> bool:
    return all(
        len(layers) == counts.get(stack, len(layers))
        for stack, layers in zip(depths, kept, strict=True)
    )


def total(kept: Kept) -> int:
    return sum(map(len, kept))


def text(kept: Kept, depths: Depths) -> str:
    """The plan as it is written, by which ties are broken."""
    parts = zip(kept, depths.values(), strict=True)
    return "/".join(
        "all" if len(layers) == n else ",".join(map(str, layers)) for layers, n in parts
    )


def plan_of(kept: Kept, depths: Depths) -> PruningPlan:
    return PruningPlan(
        **{s: LayerSelection(n, k) for (s, n), k in zip(depths.items(), kept, strict=True)}
    )


two = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(
    lambda n: {"encoder": n[0], "decoder": n[1]}
)
models = st.one_of(two, st.integers(1, 6).map(lambda n: {"decoder": n}))
seeds = st.integers(0, 10**6)


@st.composite
def asked_for(draw: Callable[..., object]) -> tuple[Depths, Depths]:
    """A model's depths, and those that are asked for in some of its stacks."""
    depths: Depths = draw(models)  # type: ignore[assignment]
    counts = {s: draw(st.none() | st.integers(1, n)) for s, n in depths.items()}
    return depths, {s: n for s, n in counts.items() if n is not None}  # type: ignore[misc]


few = settings(max_examples=60)


# The space


@few
@given(asked_for())
def test_the_space_holds_every_sub_network_once(asked: tuple[Depths, Depths]) -> None:
    depths, counts = asked
    found = [key(plan) for plan in space(depths, counts)]
    assert sorted(found) == sorted(kept for kept in everything(depths) if has(kept, depths, counts))
    assert len(found) == space_size(depths, counts)
    encoders = [kept[0] for kept in found]
    assert len(list(itertools.groupby(encoders))) == len(set(encoders)), (
        "those of an encoder follow one another"
    )


def test_the_sizes_of_known_spaces() -> None:
    assert space_size({"encoder": 6, "decoder": 6}, {}) == 3969
    assert space_size({"encoder": 6, "decoder": 6}, {"encoder": 3, "decoder": 3}) == 400
    assert space_size({"decoder": 16}, {"decoder": 8}) == 12870


# Exhaustive


@few
@given(asked_for(), seeds, st.integers(2, 8), st.sampled_from([3, 10**9]))
def test_exhaustive_finds_the_best_of_what_fits(
    asked: tuple[Depths, Depths], seed: int, most: int, values: int
) -> None:
    depths, counts = asked
    table = Table(seed, values)
    fitting = [
        kept for kept in everything(depths) if has(kept, depths, counts) and total(kept) <= most
    ]
    if not fitting:
        with pytest.raises(ValueError, match="no sub-network fits the budget"):
            exhaustive(table, depths, counts, lambda plan: total(key(plan)) <= most)
        assert table.asked == []
        return
    (found,) = exhaustive(table, depths, counts, lambda plan: total(key(plan)) <= most)
    best = min(fitting, key=lambda kept: (table.of(kept), text(kept, depths)))
    assert found == Trial(plan_of(best, depths), table.of(best))
    assert sorted(table.asked[0]) == sorted(fitting), "what does not fit is not scored"


def test_ties_go_the_same_way_in_whatever_order_the_plans_come() -> None:
    depths = {"encoder": 3, "decoder": 3}
    flat: Callable[[Sequence[PruningPlan]], list[float]] = lambda plans: [1.0] * len(plans)
    (found,) = exhaustive(flat, depths, {"decoder": 1})
    assert str(found.plan) == min(str(plan) for plan in space(depths, {"decoder": 1}))
    assert [str(t.plan) for t in beam(flat, depths, {"decoder": 2})] == [
        "all/all",
        "0,1/all",
        "0,1/0,1",
    ]


# Greedy and beam


def reference_greedy(table: Table, depths: Depths, counts: Depths, most: int) -> list[Kept]:
    """Backward elimination, in a few lines."""
    path: list[Kept] = [tuple(tuple(range(n)) for n in depths.values())]
    met = lambda kept: has(kept, depths, counts) and total(kept) <= most
    while not (counts or most < 99) or not met(path[-1]):
        children = [
            (*path[-1][:s], tuple(i for i in layers if i != gone), *path[-1][s + 1 :])
            for s, (stack, layers) in enumerate(zip(depths, path[-1], strict=True))
            if len(layers) > counts.get(stack, 1)
            for gone in layers
        ]
        if not children:
            break
        path.append(min(children, key=lambda kept: (table.of(kept), text(kept, depths))))
    return path


@few
@given(asked_for(), seeds, st.sampled_from([2, 3, 5, 99]), st.sampled_from([3, 10**9]))
def test_greedy_takes_the_best_single_removal_each_time(
    asked: tuple[Depths, Depths], seed: int, most: int, values: int
) -> None:
    depths, counts = asked
    table = Table(seed, values)
    fits = None if most == 99 else lambda plan: total(key(plan)) <= most
    expected = reference_greedy(Table(seed, values), depths, counts, most)
    if fits and total(expected[-1]) > most:
        with pytest.raises(ValueError, match="no sub-network fits the budget"):
            beam(table, depths, counts, fits, width=1)
        return
    path = beam(table, depths, counts, fits, width=1)
    assert [key(trial.plan) for trial in path] == expected
    assert [trial.score for trial in path] == [table.of(kept) for kept in expected]
    for wide, narrow in itertools.pairwise(key(trial.plan) for trial in path):
        assert total(wide) - total(narrow) == 1
        assert all(set(n) <= set(w) for n, w in zip(narrow, wide, strict=True)), (
            "the family is nested"
        )


def test_greedy_without_a_budget_gives_a_plan_for_every_depth() -> None:
    path = beam(Table(1), {"encoder": 3, "decoder": 4}, {})
    assert [total(key(trial.plan)) for trial in path] == [7, 6, 5, 4, 3, 2]


@few
@given(asked_for(), seeds)
def test_a_huge_beam_finds_what_exhaustive_search_finds(
    asked: tuple[Depths, Depths], seed: int
) -> None:
    depths, counts = asked
    counts = {
        stack: counts.get(stack, max(1, n - 1)) for stack, n in depths.items()
    }  # all stacks' are asked for
    assert (
        beam(Table(seed), depths, counts, width=10**6)[-1]
        == exhaustive(Table(seed), depths, counts)[-1]
    )


@few
@given(two, seeds, st.integers(1, 5))
def test_a_wider_beam_follows_the_best_of_each_round_and_scores_nothing_twice_in_it(
    depths: Depths, seed: int, width: int
) -> None:
    table = Table(seed)
    path = beam(table, depths, {"encoder": 1, "decoder": 1}, width=width)
    alive = {tuple(tuple(range(n)) for n in depths.values())}
    for asked, step in zip(table.asked[1:], path[1:], strict=True):
        assert len(set(asked)) == len(asked)
        parents = {
            tuple(tuple(i for i in k if i != gone) if j == s else k for j, k in enumerate(kept))
            for kept in alive
            for s in range(2)
            for gone in kept[s]
            if len(kept[s]) > 1
        }
        assert set(asked) == parents
        alive = set(sorted(parents, key=table.of)[:width])
        assert key(step.plan) == min(alive, key=table.of)


@few
@given(two, seeds, st.integers(1, 3), st.integers(2, 7))
def test_a_beam_with_a_budget_ends_with_the_first_that_fits(
    depths: Depths, seed: int, width: int, most: int
) -> None:
    fits = lambda plan: total(key(plan)) <= most
    path = beam(Table(seed), depths, {}, fits, width=width)
    assert [fits(trial.plan) for trial in path] == [False] * (len(path) - 1) + [True]


def test_a_beam_ends_with_the_best_that_fits_where_a_better_does_not() -> None:
    """Layers of different sizes: plans of one depth may lie on both sides of the budget."""
    size = {0: 10, 1: 1, 2: 10}
    fits = lambda plan: sum(size[i] for i in key(plan)[0]) <= 12
    scores = {(0, 1, 2): 0.0, (0, 2): 1.0, (0, 1): 3.0, (1, 2): 2.0}
    path = beam(
        lambda plans: [scores[key(plan)[0]] for plan in plans], {"decoder": 3}, {}, fits, width=2
    )
    assert [key(trial.plan)[0] for trial in path] == [(0, 1, 2), (1, 2)]


# Screening


@few
@given(two, seeds, st.floats(0.01, 1), st.integers(1, 9))
def test_screening_finds_the_same_where_the_rough_score_ranks_alike(
    depths: Depths, seed: int, share: float, least: int
) -> None:
    rough, thorough = Table(seed), Table(seed)
    ranked_alike = lambda plans: [math.log(score + 1) for score in rough(plans)]
    screened = Screened(ranked_alike, thorough, share=share, least=least)
    assert exhaustive(screened, depths, {}) == exhaustive(Table(seed), depths, {})
    plans = space_size(depths, {})
    scored = max(least, math.ceil(share * plans)) if plans > least else plans
    assert [len(asked) for asked in thorough.asked] == [scored]
    assert [len(asked) for asked in rough.asked] == ([plans] if plans > least else [])


def test_screening_gives_thorough_scores_in_the_order_of_the_plans_and_infinity_to_the_rest() -> (
    None
):
    plans = list(space({"decoder": 4}, {}))
    rough, thorough = Table(1), Table(2)
    scores = Screened(rough, thorough, share=0.3, least=2)(plans)
    kept = sorted(range(len(plans)), key=lambda i: rough.of(key(plans[i])))[
        :5
    ]  # 0.3 · 15, rounded up
    assert scores == [
        thorough.of(key(plan)) if i in kept else math.inf for i, plan in enumerate(plans)
    ]


@pytest.mark.parametrize("width", [1, 3])
def test_a_screened_beam_never_ends_with_a_plan_that_was_ruled_out(width: int) -> None:
    path = beam(
        Screened(Table(1), Table(2)),
        {"encoder": 4, "decoder": 4},
        {"encoder": 2, "decoder": 2},
        width=width,
    )
    assert all(math.isfinite(trial.score) for trial in path)
