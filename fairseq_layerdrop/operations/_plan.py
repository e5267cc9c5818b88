# SPDX-License-Identifier: MIT
"""From what a user says of the layers to a plan: a text, a target size, what was learned."""

from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.operations._choices import STRATEGIES, check_choice
from fairseq_layerdrop.pruning.budget import fit_parameters, parse_amount
from fairseq_layerdrop.pruning.config import training_rates
from fairseq_layerdrop.pruning.learned_rates import drop_scores, learned_layers
from fairseq_layerdrop.pruning.plan import PruningPlan, split_plan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import chunks, other_lists

Plan = str | Mapping[str, Any] | PruningPlan | None
"""``"all/every:2"``, a SPEC for each stack that is named, a plan that is made already, or nothing
for all.
"""


def choose_plan(
    source: Source,
    plan: Plan = None,
    *,
    target_params: str | int | None = None,
    strategy: str | None = None,
) -> PruningPlan:
    """The layers that stay.

    Args:
        source: the full model.
        plan: the layers, if they are named; ``learned:N`` is a SPEC here, too.
        target_params: the depth of the stacks that are not named is the greatest with at most so
            many parameters.
        strategy: how a depth becomes layers, one of :data:`STRATEGIES`; ``learned`` without a
            target chooses the depth that the model had on average in its training.

    Raises:
        ValueError: if these do not go together, or do not fit the model.
    """
    _check(plan, target_params, strategy)
    if isinstance(plan, PruningPlan):
        return plan
    depths, scores = source.depths, drop_scores(source.state, source.depths)
    specs = split_plan(plan, depths) if isinstance(plan, str) else dict(plan or {})
    if target_params is None and strategy == "learned":
        named = {stack: spec for stack, spec in specs.items() if spec is not None}
        specs = {**_as_trained(source), **named}
    lists = other_lists(source.weights)
    depths = depths | {path: lists[path] for path in specs if path in lists}
    specs = {stack: learned_layers(scores, stack, spec) for stack, spec in specs.items()}
    if target_params is None:
        return PruningPlan.from_specs(specs, depths)

    def rule(stack: str, count: int) -> str:
        return learned_layers(scores, stack, f"{strategy or STRATEGIES[0]}:{count}") or "all"

    target = target_params if isinstance(target_params, int) else parse_amount(target_params)
    return fit_parameters(source.weights, depths, specs, target=target, rule=rule)


def _check(plan: Plan, target_params: str | int | None, strategy: str | None) -> None:
    check_choice("strategy", strategy, STRATEGIES)
    if target_params is None and strategy not in (None, "learned"):
        raise ValueError(
            "strategy= goes with target_params=; a strategy by itself is a SPEC, e.g. even:6"
        )
    if isinstance(plan, PruningPlan) and (target_params, strategy) != (None, None):
        raise ValueError("a plan that is made already leaves target_params= nothing to choose")


def _as_trained(source: Source) -> dict[str, str]:
    """Each stack's mean depth in training, in whole chunks where layers share weights."""
    rates, shared = training_rates(source.options), chunks(source.state)
    specs = {}
    for stack, depth in source.depths.items():
        rate = rates.get(stack)
        chunk = len(shared[stack][0]) if stack in shared else 1
        mean = depth * (1 - rate) if isinstance(rate, float) else depth
        specs[stack] = f"learned:{max(1, round(mean / chunk)) * chunk}"
    return specs
