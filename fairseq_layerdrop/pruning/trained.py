# SPDX-License-Identifier: MIT
"""The plans that a model was trained with (``--train-plans``): as good as it was taught them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fairseq_layerdrop.pruning.config import plain
from fairseq_layerdrop.pruning.plan import PruningPlan


def trained_plans(checkpoint: Mapping[str, Any]) -> list[str]:
    """The plans that training ran in its steps, as they were named; of the whole model's layers.

    A pruned checkpoint has them in its provenance, one that training wrote in its task's options.
    """
    provenance = (checkpoint.get("extra_state") or {}).get("layerdrop")
    if provenance:
        return list(provenance.get("trained_plans", []))
    task = plain((checkpoint.get("cfg") or {}).get("task"))
    return str(task.get("train_plans") or "").split() if isinstance(task, dict) else []


def untrained(plan: PruningPlan, trained: Sequence[str], depths: dict[str, int]) -> str | None:
    """What is wrong with a plan for a model that was trained with others; ``None`` if nothing is.

    Args:
        plan: what would stay.
        trained: what :func:`trained_plans` found; empty for any other model.
        depths: of the model.
    """
    if not trained or plan.is_whole:
        return None
    try:
        planned = [PruningPlan.parse(text, depths) for text in trained]
    except ValueError:  # of more layers than are left: this model was pruned since
        return None
    if plan in planned:
        return None
    return f"was trained with the plans {' '.join(trained)}, and {plan} is none of them"


def parse_points(text: str, depths: dict[str, int], trained: Sequence[str]) -> list[PruningPlan]:
    """The plans of a text, separated by blanks, each once.

    Args:
        text: the plans; the word ``trained`` stands for those of the training.
        depths: of the model they are for.
        trained: what :func:`trained_plans` found.

    Raises:
        ValueError: if one does not fit, or there is none.
    """
    names: list[str] = []
    for name in text.split():
        if name == "trained" and not trained:
            raise ValueError(
                "points=: the checkpoint names no plans that it was trained with, so trained "
                "stands for none; name them, e.g. 6+3"
            )
        names += trained if name == "trained" else [name]
    if not names:
        raise ValueError("points= must name at least one plan, e.g. 6+3, got none")
    return list(dict.fromkeys(PruningPlan.parse(name, depths) for name in names))
