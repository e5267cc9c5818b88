# SPDX-License-Identifier: MIT
"""Search by evolution, quality against cost, through optuna (NSGA-II, Deb et al. 2002)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from fairseq_layerdrop.evaluation.workers import Workers
from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.search import Fits, Objective, Trial

POPULATION = 40
OVER = 1e3
"""Added to the score of a plan over the budget: worse than any within it."""


def evolve(
    objective: Objective,
    cost: Callable[[PruningPlan], float],
    depths: Mapping[str, int],
    counts: Mapping[str, int],
    fits: Fits | None = None,
    *,
    generations: int = 10,
    seed: int = 1,
    storage: str | None = None,
    workers: Workers | None = None,
) -> list[Trial]:
    """The plans that no other beats in score and cost, with the best score that fits last.

    Each layer has a weight: those above a half are kept, or the heaviest of a stack whose depth is
    asked for.

    Args:
        objective: scores a generation's plans together.
        cost: of a plan, predicted; lower is better.
        depths: of the stacks.
        counts: the depths that are asked for.
        fits: whether a plan is within the budget.
        generations: how many, of :data:`POPULATION` plans each.
        seed: the same gives the same plans.
        storage: an optuna storage that several machines share; without one, a run that goes on
            draws the same plans again and finds their scores.
        workers: the processes that share the work; the first of them draws.

    Raises:
        ValueError: if optuna or its storage is not there, or nothing fits.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "evolution needs optuna: pip install 'fairseq-layerdrop[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    workers = workers or Workers()
    study = _study(optuna, seed, storage) if workers.first else None
    scored: dict[PruningPlan, float] = {}
    for _ in range(generations):
        trials = [study.ask() for _ in range(POPULATION)] if study else []
        plans = workers.agree([_plan(trial, depths, counts) for trial in trials])
        scored |= zip(plans, objective(plans), strict=True)
        for trial, plan in zip(trials, plans, strict=False):  # only the first process has trials
            assert study is not None
            within = fits is None or fits(plan)
            score = scored[plan] if within else scored[plan] + OVER
            study.tell(trial, (min(score, 2 * OVER), cost(plan)))
    fitting = [
        Trial(p, score)
        for p, score in scored.items()
        if (fits is None or fits(p)) and math.isfinite(score)
    ]
    if not fitting:
        raise ValueError(
            "no sub-network that was tried fits the budget; ask for more, or for more generations"
        )
    return _front(fitting, cost)


def _study(optuna: Any, seed: int, storage: str | None) -> Any:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    goals = {"directions": ["minimize", "minimize"]}
    try:
        return optuna.create_study(
            **goals, sampler=sampler, storage=storage, study_name="plans", load_if_exists=True
        )
    except Exception as error:  # of SQLAlchemy or its drivers, as many as there are databases
        if storage is None:
            raise
        what = str(error).splitlines()[0]
        raise ValueError(
            f"storage= is the URL of a database, like sqlite:///trials.db, got {storage}: {what}"
        ) from error


def _plan(trial: Any, depths: Mapping[str, int], counts: Mapping[str, int]) -> PruningPlan:
    selections = {}
    for stack, depth in depths.items():
        weights = [trial.suggest_float(f"{stack}.{i}", 0, 1) for i in range(depth)]
        ranked = sorted(range(depth), key=[-weight for weight in weights].__getitem__)
        count = counts.get(stack) or max(1, sum(weight > 0.5 for weight in weights))
        selections[stack] = LayerSelection(depth, tuple(ranked[:count]))
    return PruningPlan.of(selections)


def _front(trials: list[Trial], cost: Callable[[PruningPlan], float]) -> list[Trial]:
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (cost(t.plan), t.score, str(t.plan))):
        if not front or trial.score < front[-1].score:
            front.append(trial)
    return front
