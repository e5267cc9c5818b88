# SPDX-License-Identifier: MIT
"""The loss of plans as a search's objective; plans that share an encoder run in one pass."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.workers import Workers
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.reporting.rows import Row, RowFile

GROUP = 64
"""About this many plans are scored in one pass, and lost when a run is killed."""


class LossObjective:
    """Bits a token of each plan, on the same sentences.

    Args:
        subject: the checkpoint.
        batches: the sentences.
        part: the share of the batches that is scored.
        rows: where scores are kept, and found again; none in a process that only helps.
        workers: the processes that share the work.
        progress: wraps the groups of plans that are still to be scored.
    """

    def __init__(
        self,
        subject: Subject,
        batches: Batches,
        *,
        rows: RowFile | None,
        workers: Workers,
        part: float = 1.0,
        progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    ) -> None:
        self.subject = subject
        self.batches = batches
        self.rows = rows
        self.workers = workers
        self.part = part
        self.progress = progress
        self.samples = batches.share(part) if part < 1 else batches.samples
        self.scores: dict[PruningPlan, float] = {}
        """All that it was asked for."""

    def __call__(self, plans: Sequence[PruningPlan]) -> list[float]:
        """The losses of the plans; those that have a row are not scored again."""
        found = {plan: self._find(plan) for plan in plans}
        known = self.workers.agree({plan: row["loss"] for plan, row in found.items() if row})
        groups = _groups([plan for plan in dict.fromkeys(plans) if plan not in known])
        count = self.workers.count
        for turn in self.progress([groups[i : i + count] for i in range(0, len(groups), count)]):
            mine = turn[self.workers.rank] if self.workers.rank < len(turn) else []
            new = list(itertools.chain(*self.workers.gather(self._score(mine))))
            scored = itertools.chain(*turn)
            known |= zip(scored, (row["loss"] for row in new), strict=True)
            if self.rows:
                self.rows.add(new)
        self.scores |= known
        return [known[plan] for plan in plans]

    def _find(self, plan: PruningPlan) -> Row | None:
        return self.rows.find(self._sign(plan)) if self.rows else None

    def _sign(self, plan: PruningPlan) -> dict[str, Any]:
        return self.subject.sign(plan, self.batches, part=self.part, metric="bits a token")

    def _score(self, plans: Sequence[PruningPlan]) -> list[Row]:
        if not plans:
            return []
        losses = score_losses(self.subject.loaded, self.samples, [plan.kept for plan in plans])
        return [
            {
                "kind": "trial",
                **self.subject.describe(plan),
                "loss": found.loss,
                "tokens": found.tokens,
                "signature": self._sign(plan),
            }
            for plan, found in zip(plans, losses, strict=True)
        ]


def _groups(plans: Sequence[PruningPlan]) -> list[list[PruningPlan]]:
    """Plans to score in one pass: all of an encoder together, in the order of the trie."""
    ordered = sorted(plans, key=lambda plan: tuple(plan.kept.values()))

    def first(plan: PruningPlan) -> object:
        return next(iter(plan.kept.values())) if len(plan.kept) > 1 else plan

    groups: list[list[PruningPlan]] = []
    for _, alike in itertools.groupby(ordered, key=first):
        new = list(alike)
        if groups and len(groups[-1]) + len(new) <= GROUP:
            groups[-1] += new
        else:
            groups.append(new)
    return groups
