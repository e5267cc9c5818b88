# SPDX-License-Identifier: MIT
"""A warning where a plan prunes more than the training rates allow for."""

import logging
import statistics
from collections.abc import Sequence

from fairseq_layerdrop.evaluation.layer_importance import leave_one_out
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.trained import untrained

logger = logging.getLogger(__name__)

FAR = 2.5
"""The paper prunes half of the layers at a rate of 0.2, so 2.5 times the rate."""


def warn_beyond_training(subject: Subject, batches: Batches, plans: Sequence[PruningPlan]) -> None:
    """Log one warning, if a plan prunes more than the training allows for.

    A model that was trained with plans allows for these; any other for what its rates carry.
    """
    reasons: dict[str, str] = {}
    for plan in plans:
        reasons |= _of_plans(subject, plan) if subject.trained else _of_rates(subject, plan)
    if not reasons:
        return
    few = batches.share(0.1)
    costs = [row["value"] for row in leave_one_out(subject, few)]
    logger.warning(
        "%s. Without any single layer the loss rises by %.2f to %.2f bits a token (median %.2f, "
        "on %d sentences)",
        "; ".join(f"the {part} {reason}" for part, reason in reasons.items()),
        min(costs),
        max(costs),
        statistics.median(costs),
        sum(len(sample["id"]) for sample in few),
    )


def _of_plans(subject: Subject, plan: PruningPlan) -> dict[str, str]:
    reason = untrained(plan, subject.trained, subject.depths)
    return {"model": reason} if reason else {}


def _of_rates(subject: Subject, plan: PruningPlan) -> dict[str, str]:
    found = {}
    for stack, selection in plan.selections.items():
        reason = _reason(subject.rates.get(stack), len(selection.removed) / selection.depth)
        if reason:
            found[stack] = reason
    return found


def _reason(rate: float | list[float] | None, removed: float) -> str | None:
    if not removed:
        return None
    rate = statistics.fmean(rate) if isinstance(rate, list) else rate
    if not rate:
        return "was trained without LayerDrop, so pruning will hurt"
    if removed > FAR * rate:
        return f"was trained with LayerDrop {rate:g}, and {removed:.0%} of it would go"
    return None
