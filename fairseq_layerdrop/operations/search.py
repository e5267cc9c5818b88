# SPDX-License-Identifier: MIT
"""The best sub-network within a budget, judged on sentences that the search did not see."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop.operations._choices import METHODS, check_choice
from fairseq_layerdrop.operations._evaluation import (
    EvaluationOptions,
    batches_of,
    measures_of,
    open_subject,
)
from fairseq_layerdrop.operations._progress import Progress, silent
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.search import space_size

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.search import Found, SearchOptions
    from fairseq_layerdrop.evaluation.subject import Subject
    from fairseq_layerdrop.evaluation.sweep import Measures, Results

logger = logging.getLogger(__name__)


def search(
    source: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    wanted: "SearchOptions | None" = None,
    options: EvaluationOptions | None = None,
    *,
    test_subset: str | None = None,
    command: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any] | None:
    """Search on one half of a subset, and judge the winner on the other half and another subset.

    It is judged beside Every Other at its depth and the whole model.

    >>> search("full.pt", "DATA", "trials.jsonl", SearchOptions(decoder_depth=3))  # doctest: +SKIP

    Args:
        source: a fairseq checkpoint (``.pt``).
        data: a data set in fairseq's binary form.
        output: where the rows of all that is scored go; a search that was killed goes on.
        wanted: the budget, and how it is searched.
        options: the sentences, and what is measured of the winner; the loss always is. With
            ``compensate`` the best few are compensated and scored again, and the best of these
            wins.
        test_subset: judge the winner on this subset, too.
        command: what rows say that they were made by; else the running program.
        progress: shows how far it is.

    Returns:
        The facts: ``winner`` (a plan's text) and the layers that it ``kept``, the ``path`` to it,
        the losses of those that were ``searched``, those of the best few ``compensated``, and what
        was ``judged``; nothing in the processes other than the first, where several share the work.

    Raises:
        CheckpointError: if the source cannot be read safely.
        ValueError: if the model cannot give what is asked for, naming all reasons.
    """
    from fairseq_layerdrop.evaluation.search import SearchOptions
    from fairseq_layerdrop.evaluation.search import search as search_plans
    from fairseq_layerdrop.evaluation.sweep import Results
    from fairseq_layerdrop.evaluation.workers import Workers
    from fairseq_layerdrop.reporting.origin import origin

    wanted = wanted or SearchOptions()
    options = options or EvaluationOptions()
    check_choice("method", wanted.method, METHODS)
    metrics = {*options.metrics, "loss"}
    if wanted.target_latency_ms is not None:
        metrics.add("latency")  # the winner's is measured, beside the prediction
    _, subject = open_subject(source, data, output, options)
    wanted.check(subject.depths)
    searched, measured = _measures(subject, options, metrics, test_subset)
    judging, *_ = measured.values()
    workers = Workers()
    if workers.first:
        size = space_size(subject.depths, wanted.counts)
        method = wanted.method_for(subject.depths)
        logger.warning("%s sub-networks; method: %s", f"{size:,}", method)
    made_by = origin(command or sys.argv)
    with Results(str(output), made_by) if workers.first else nullcontext() as results:
        found = search_plans(
            subject,
            searched.batches,
            wanted,
            results.rows if results else None,
            workers,
            stopwatch=judging.stopwatch,
            progress=(progress if workers.first else silent)("passes over the data"),
        )
        facts = None
        if results:
            again = {}
            if options.compensate:
                again = _compensate(subject, found, searched, results, progress)
            facts = _judge(subject, found, again, measured, results, progress)
    workers.close()
    return facts


def _measures(
    subject: "Subject", options: EvaluationOptions, metrics: set[str], test_subset: str | None
) -> "tuple[Measures, dict[tuple[str, str], Measures]]":
    """What the search measures on its half, and what its winner is judged by, by subset and half.

    What the search does not see is loaded before it: what is wrong with it is said at once.
    """
    from fairseq_layerdrop.evaluation.latency import Stopwatch

    batches = batches_of(subject, options, half="first")
    judged = {(options.subset, "second"): batches_of(subject, options, half="second")}
    if test_subset:
        judged[test_subset, "all"] = batches_of(subject, options, subset=test_subset)
    # One stopwatch for the prediction and the winner: the same sentences, the same lengths. One
    # compensator for all sentences: a plan is compensated once.
    stopwatch = None
    if "latency" in metrics:
        stopwatch = Stopwatch(subject.loaded, batches, beam=options.beam)
    searched = measures_of(subject, batches, options, metrics={"loss"})
    shared: Any = {"stopwatch": stopwatch, "compensator": searched.compensator}
    measured = {}
    for name, part in judged.items():
        measures = measures_of(subject, part, options, metrics=metrics, **shared)
        measured[name] = replace(measures, kind="verdict")
    return searched, measured


def _compensate(
    subject: "Subject",
    found: "Found",
    measures: "Measures",
    results: "Results",
    progress: Progress,
) -> dict[PruningPlan, float]:
    """The losses of the best few, compensated, on the sentences of the search; the best first."""
    from fairseq_layerdrop.evaluation.sweep import sweep

    plans = [plan for plan in found.best if not plan.is_whole]
    measures = replace(measures, kind="verdict")
    rows = sweep(subject, plans, measures, results, progress=progress("compensating the best"))
    ranked = sorted(plans, key=lambda plan: (rows[plan]["loss"], str(plan)))
    return {plan: rows[plan]["loss"] for plan in ranked}


def _judge(
    subject: "Subject",
    found: "Found",
    again: dict[PruningPlan, float],
    measured: "dict[tuple[str, str], Measures]",
    results: "Results",
    progress: Progress,
) -> dict[str, Any]:
    """Measure the winner on sentences that the search did not see."""
    from fairseq_layerdrop.evaluation.preflight import warn_beyond_training
    from fairseq_layerdrop.evaluation.search import predict
    from fairseq_layerdrop.evaluation.sweep import compare, public, sweep

    winner = next(iter(again), found.winner)  # of those that are compensated, if any
    evenly = found.evenly
    plans = list(dict.fromkeys([evenly, winner, subject.whole]))
    facts: dict[str, Any] = {
        "winner": str(winner),
        "kept": {stack: list(layers) for stack, layers in winner.kept.items()},
        "path": [{"plan": str(trial.plan), "loss": trial.score} for trial in found.trials],
        "searched": {str(plan): loss for plan, loss in found.losses.items()},
        "compensated": {str(plan): loss for plan, loss in again.items()},
        "judged": [],
    }
    if found.latency:
        facts["predicted_ms"] = predict(found.latency, winner)
    warn_beyond_training(subject, next(iter(measured.values())).batches, [winner])
    for (subset, half), measures in measured.items():
        rows = sweep(subject, plans, measures, results, progress=progress(f"judging on {subset}"))
        pair = {plan: rows[plan] for plan in (winner, evenly)}
        tests = compare(pair, evenly, measures.references) if len(pair) > 1 else []
        for test in tests:
            results.add_test(test)
        public_rows = [public(row) for row in rows.values()]
        facts["judged"].append(
            {"subset": subset, "half": half, "rows": public_rows, "tests": tests}
        )
    return facts
