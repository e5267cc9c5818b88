# SPDX-License-Identifier: MIT
"""From candidates, an objective and a budget to the best plan.

An objective takes many plans at once, for those that share layers can be scored together, and gives
each a number, the lower the better. It keeps its own record of what it has scored; nothing is held
here but the plans in hand.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan

Objective = Callable[[Sequence[PruningPlan]], Sequence[float]]
Fits = Callable[[PruningPlan], bool]


class Trial(NamedTuple):
    """A plan and what the objective says of it."""

    plan: PruningPlan
    score: float


def space_size(depths: Mapping[str, int], counts: Mapping[str, int]) -> int:
    """The number of sub-networks: ``counts`` layers of a stack named there, any of the others."""
    return math.prod(
        math.comb(n, counts[s]) if s in counts else 2**n - 1 for s, n in depths.items()
    )


def space(depths: Mapping[str, int], counts: Mapping[str, int]) -> Iterator[PruningPlan]:
    """Every sub-network, those with the same encoder one after another."""
    choices = [list(_subsets(depth, counts.get(stack))) for stack, depth in depths.items()]
    for selections in itertools.product(*choices):
        yield PruningPlan.of(dict(zip(depths, selections, strict=True)))


def _subsets(depth: int, count: int | None) -> Iterator[LayerSelection]:
    for size in [count] if count else range(depth, 0, -1):
        for kept in itertools.combinations(range(depth), size):
            yield LayerSelection(depth, kept)


def exhaustive(
    objective: Objective,
    depths: Mapping[str, int],
    counts: Mapping[str, int],
    fits: Fits | None = None,
) -> list[Trial]:
    """Score all that fits; the best.

    Raises:
        ValueError: if nothing fits.
    """
    plans = [plan for plan in space(depths, counts) if fits is None or fits(plan)]
    if not plans:
        raise ValueError("no sub-network fits the budget; ask for more")
    return [_best(plans, objective(plans))]


def beam(
    objective: Objective,
    depths: Mapping[str, int],
    counts: Mapping[str, int],
    fits: Fits | None = None,
    *,
    width: int = 1,
) -> list[Trial]:
    """Remove one layer at a time from the best plans of the round before, until it fits.

    With a width of 1 this is greedy backward elimination: its path is a nested family, a plan for
    every depth.

    Returns:
        The best plan of each round, from the whole model to the first that is within the budget and
        has the depths that ``counts`` names; to one layer a stack, where neither says anything.

    Raises:
        ValueError: if nothing fits.
    """
    whole = PruningPlan.everything(depths)
    best = [Trial(whole, objective([whole])[0])]
    path = [best[0]]
    while not _done(path[-1].plan, counts, fits):
        plans = list(
            dict.fromkeys(child for trial in best for child in _smaller(trial.plan, counts))
        )
        if not plans:
            break
        trials = sorted(map(Trial, plans, objective(plans)), key=_rank)
        best = trials[:width]
        met = [trial for trial in best if _done(trial.plan, counts, fits)]
        path.append(met[0] if met else best[0])
    if fits is not None and not fits(path[-1].plan):
        raise ValueError("no sub-network fits the budget; ask for more")
    return path


def _smaller(plan: PruningPlan, counts: Mapping[str, int]) -> Iterator[PruningPlan]:
    """One layer less, in any stack that is still deeper than it must be."""
    for stack, selection in plan.selections.items():
        if len(selection.kept) > counts.get(stack, 1):
            for gone in selection.kept:
                kept = tuple(i for i in selection.kept if i != gone)
                smaller = LayerSelection(selection.depth, kept)
                yield PruningPlan.of({**plan.selections, stack: smaller})


def _done(plan: PruningPlan, counts: Mapping[str, int], fits: Fits | None) -> bool:
    deep = any(len(plan.selections[stack].kept) > n for stack, n in counts.items())
    return bool(counts or fits) and not deep and (fits is None or fits(plan))


def _best(plans: Sequence[PruningPlan], scores: Sequence[float]) -> Trial:
    return min(map(Trial, plans, scores), key=_rank)


def _rank(trial: Trial) -> tuple[float, str]:
    return trial.score, str(trial.plan)  # ties go the same way on every machine


class Screened:
    """An objective that scores all plans roughly, and only the most promising exactly.

    Args:
        rough: quick, on part of the data.
        thorough: on all of it.
        share: of the plans, those with the best rough scores are scored thoroughly, at least
            ``least`` of them.
        least: see ``share``.
    """

    def __init__(
        self, rough: Objective, thorough: Objective, *, share: float = 0.1, least: int = 4
    ) -> None:
        self.rough, self.thorough, self.share, self.least = rough, thorough, share, least

    def __call__(self, plans: Sequence[PruningPlan]) -> list[float]:
        """The thorough scores; infinity for the plans that the rough one rules out."""
        survivors = set(plans)
        if len(plans) > self.least:
            ranked = sorted(map(Trial, plans, self.rough(plans)), key=_rank)
            survivors = {
                trial.plan
                for trial in ranked[: max(self.least, math.ceil(self.share * len(plans)))]
            }
        chosen = [plan for plan in plans if plan in survivors]
        scores = dict(zip(chosen, self.thorough(chosen), strict=True))
        return [scores.get(plan, math.inf) for plan in plans]
