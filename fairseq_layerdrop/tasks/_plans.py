# SPDX-License-Identifier: MIT
"""Plans that a task runs beside the whole model: their names, and their numbers in the log.

A plan's numbers travel beside the whole model's in one logging output, each under a key that
begins with the plan's name, and are reduced and logged like those, each with the name behind it:
``loss_6-3``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Dict, Optional

from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter, ConcatTensorMeter, MetersDict

from fairseq_layerdrop.pruning.plan import PruningPlan

_PREFIX = "_plan_{}_"
_SPEEDS = ("wpb", "bsz")  # the batch's size, not the plan's result


def parse_plans(flag: str, text: Optional[str], depths: Dict[str, int]) -> Dict[str, PruningPlan]:
    """The plans that a flag names, separated by blanks, by what they are called in metrics.

    Raises:
        ValueError: if a plan does not fit, or two would share a name.
    """
    plans: Dict[str, PruningPlan] = {}
    for plan in (text or "").split():
        name = re.sub(r"[^0-9A-Za-z]+", "-", plan)  # it becomes part of metric and file names
        if name in plans:
            raise ValueError(
                f"{flag}: every plan must have a metric name of its own, got {name} twice"
            )
        try:
            plans[name] = PruningPlan.parse(plan, depths)
        except ValueError as error:
            raise ValueError(f"{flag}: {plan}: {error}") from None
    return plans


def named_after(name: str, log: Mapping[str, Any]) -> Dict[str, Any]:
    """A plan's logging output under the keys by which it travels."""
    return {_PREFIX.format(name) + key: value for key, value in log.items()}


def reduce_plans(
    names: Iterable[str],
    logging_outputs: Sequence[Mapping[str, Any]],
    reduce: Callable[[Sequence[Mapping[str, Any]]], None],
) -> None:
    """Reduce and log the numbers of each plan that has any.

    Args:
        names: of the plans.
        logging_outputs: of a step, with the plans' numbers in them.
        reduce: logs what a list of ordinary logging outputs holds.
    """
    for name in names:
        prefix = _PREFIX.format(name)
        partial = []
        for log in logging_outputs:
            partial.append({k[len(prefix) :]: v for k, v in log.items() if k.startswith(prefix)})
        if any(log.get("sample_size", log) for log in partial):
            with metrics.aggregate(new_root=True) as meters:
                reduce(partial)
            _log_again(meters, name)


def _log_again(meters: Any, name: str) -> None:
    """Log what ``meters`` holds once more, each key with the plan's name behind it."""

    def unsuffixed(all_meters: Any) -> Any:
        ours = MetersDict()
        for key in meters:
            if f"{key}_{name}" in all_meters:
                ours.add_meter(key, all_meters[f"{key}_{name}"], 0)
        return ours

    for priority, _, key in meters.priorities:
        meter = meters[key]
        if isinstance(meter, AverageMeter) and key not in _SPEEDS:
            value = meter.sum / meter.count if meter.count else 0
            metrics.log_scalar(f"{key}_{name}", value, meter.count, priority, meter.round)
        elif isinstance(meter, ConcatTensorMeter):
            metrics.log_concat_tensor(f"{key}_{name}", meter.tensor, priority)
        elif isinstance(meter, MetersDict._DerivedMeter):
            metrics.log_derived(
                f"{key}_{name}",
                lambda all_meters, derive=meter.fn: derive(unsuffixed(all_meters)),
                priority,
            )
