# SPDX-License-Identifier: MIT
"""A whole search: the objective on real data, the budget, the method."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fairseq_layerdrop.evaluation.evolution import evolve
from fairseq_layerdrop.evaluation.latency import LatencyModel, Stopwatch
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.objective import LossObjective
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.workers import Workers
from fairseq_layerdrop.pruning.budget import parse_amount
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.search import (
    Fits,
    Objective,
    Screened,
    Trial,
    beam,
    exhaustive,
    space_size,
)
from fairseq_layerdrop.reporting.rows import RowFile

LARGEST = 20_000
"""The largest space that is searched whole unless it is asked for."""
CANDIDATES = 5
"""That many of the best plans may win once they are compensated."""


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for, and how.

    Args:
        method: exhaustive, greedy, beam or evolution; without one, exhaustive where the space is
            small, else greedy.
        encoder_depth: layers of the encoder that stay; else its depth is searched, too.
        decoder_depth: layers of the decoder that stay, likewise.
        target_params: at most this many parameters, e.g. ``"30M"``.
        target_latency_ms: at most this long a sentence, by the latency model.
        target_memory: at most this many bytes of weights, e.g. ``"120M"``.
        screen: the share of the data on which all plans are scored first.
        beam_width: plans that are followed.
        generations: of the evolution.
        storage: an optuna storage that several machines share.
        seed: of the evolution.
    """

    method: str | None = None
    encoder_depth: int | None = None
    decoder_depth: int | None = None
    target_params: str | int | None = None
    target_latency_ms: float | None = None
    target_memory: str | int | None = None
    screen: float | None = None
    beam_width: int = 4
    generations: int = 10
    storage: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("target_params", "target_memory"):
            amount = getattr(self, name)
            if isinstance(amount, str):
                object.__setattr__(self, name, parse_amount(amount))

    @property
    def counts(self) -> dict[str, int]:
        """The depths that are asked for, by stack."""
        both = {"encoder": self.encoder_depth, "decoder": self.decoder_depth}
        return {stack: count for stack, count in both.items() if count is not None}

    def check(self, depths: Mapping[str, int]) -> None:
        """Refuse what the model cannot give, all in one message.

        Raises:
            ValueError: naming each option.
        """
        errors = []
        for stack, count in self.counts.items():
            if stack not in depths:
                errors.append(
                    f"{stack}_depth=: the model has no such stack (it has {', '.join(depths)})"
                )
            elif not 1 <= count <= depths[stack]:
                errors.append(f"{stack}_depth= must lie in 1-{depths[stack]}, got {count}")
        if self.screen is not None and not 0 < self.screen < 1:
            errors.append(f"screen= is a share of the data between 0 and 1, got {self.screen}")
        for name in ("beam_width", "generations"):
            if getattr(self, name) < 1:
                errors.append(f"{name}= must be at least 1, got {getattr(self, name)}")
        if errors:
            raise ValueError("; ".join(errors))

    def method_for(self, depths: Mapping[str, int]) -> str:
        """The method asked for; else exhaustive up to LARGEST plans, greedy beyond."""
        if self.method:
            return self.method
        return "exhaustive" if space_size(depths, self.counts) <= LARGEST else "greedy"


@dataclass(frozen=True)
class Found:
    """What a search found: the best of each round, or the front, with the winner last."""

    trials: list[Trial]
    latency: LatencyModel | None
    evenly: PruningPlan
    """Every Other at the winner's depths: what a user would take without a search."""
    losses: dict[PruningPlan, float]
    """Of the winner, ``evenly`` and the whole model, on the sentences of the search."""
    best: list[PruningPlan]
    """The winner and those of its depths that come next, within the budget; the best first."""

    @property
    def winner(self) -> PruningPlan:
        """The best plan."""
        return self.trials[-1].plan


def search(
    subject: Subject,
    batches: Batches,
    wanted: SearchOptions,
    rows: RowFile | None,
    workers: Workers,
    *,
    stopwatch: Stopwatch | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Found:
    """Search for the best plan on these sentences.

    Args:
        subject: the checkpoint.
        batches: the sentences, of which none should be those that the winner is judged on.
        wanted: what is searched for.
        rows: where all scores go; in one process only.
        workers: the processes that share the work.
        stopwatch: measures the latency model, where latency is limited.
        progress: wraps each round's passes over the data.
    """

    def objective(part: float = 1.0) -> LossObjective:
        return LossObjective(
            subject, batches, rows=rows, workers=workers, part=part, progress=progress
        )

    exact = objective()
    score: Objective = exact if wanted.screen is None else Screened(objective(wanted.screen), exact)
    model = workers.agree(
        LatencyModel.fit(stopwatch, subject.depths) if stopwatch and workers.first else None
    )
    fits = _fits(subject, wanted, model)
    method = wanted.method_for(subject.depths)
    if method == "exhaustive":
        trials = exhaustive(score, subject.depths, wanted.counts, fits)
    elif method == "evolution":
        cost = (lambda plan: predict(model, plan)) if model else subject.parameters
        options: dict[str, Any] = {
            "generations": wanted.generations,
            "seed": wanted.seed,
            "storage": wanted.storage,
        }
        trials = evolve(
            score, cost, subject.depths, wanted.counts, fits, workers=workers, **options
        )
    else:
        width = 1 if method == "greedy" else wanted.beam_width
        trials = beam(score, subject.depths, wanted.counts, fits, width=width)
    counts = {stack: f"even:{len(kept)}" for stack, kept in trials[-1].plan.kept.items()}
    evenly = PruningPlan.from_specs(counts, subject.depths)
    plans = [evenly, trials[-1].plan, subject.whole]
    losses = dict(zip(plans, exact(plans), strict=True))
    return Found(trials, model, evenly, losses, _best(exact.scores, trials[-1].plan, fits))


def _best(
    scores: Mapping[PruningPlan, float], winner: PruningPlan, fits: Fits | None
) -> list[PruningPlan]:
    """The winner first, then the best of the others that are as deep and within the budget."""
    others = [
        plan
        for plan in scores
        if plan != winner and _sizes(plan) == _sizes(winner) and (fits is None or fits(plan))
    ]
    others.sort(key=lambda plan: (scores[plan], str(plan)))
    return [winner, *others[: CANDIDATES - 1]]


def _sizes(plan: PruningPlan) -> list[int]:
    return [len(kept) for kept in plan.kept.values()]


def predict(model: LatencyModel, plan: PruningPlan) -> float:
    """Milliseconds a sentence."""
    return model.predict([len(kept) for kept in plan.kept.values()])


def _fits(subject: Subject, wanted: SearchOptions, model: LatencyModel | None) -> Fits | None:
    """Whether a plan is within every limit; ``None`` if there is no limit.

    Raises:
        ValueError: naming every limit below the smallest sub-network of the depths asked for.
    """
    costs: dict[str, Callable[[PruningPlan], float]] = {
        "target_params": subject.parameters,
        "target_memory": subject.bytes,
        "target_latency_ms": partial(predict, model) if model else lambda _: math.inf,
    }
    limits = {name: (cost, getattr(wanted, name)) for name, cost in costs.items()}
    given = {name: (cost, most) for name, (cost, most) in limits.items() if most is not None}
    if not given:
        return None
    least = {stack: f"first:{wanted.counts.get(stack, 1)}" for stack in subject.depths}
    smallest = PruningPlan.from_specs(least, subject.depths)
    errors = [
        f"{name}=: the smallest sub-network takes {_amount(cost(smallest))}, got {_amount(most)}"
        for name, (cost, most) in given.items()
        if cost(smallest) > most
    ]
    if errors:
        raise ValueError("; ".join(errors))
    return lambda plan: all(cost(plan) <= most for cost, most in given.values())


def _amount(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"
