# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop search``: the best sub-network for a depth, a size, a latency or a memory."""

import json
import logging
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop.cli._decoding import add_decoding, make_measures, parse_metrics
from fairseq_layerdrop.cli._evaluation import add_data, bar, load_batches, load_subject, quiet
from fairseq_layerdrop.cli._text import join, row_text

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.search import Found, Request
    from fairseq_layerdrop.evaluation.subject import Subject
    from fairseq_layerdrop.evaluation.sweep import Measures, Results

SUMMARY = (
    "find the best sub-network within a budget; every plan that is scored is a row, and "
    "none is scored twice"
)
EXAMPLE = (
    "fairseq-layerdrop search DATA trials.jsonl --path full.pt --encoder-depth 3 --decoder-depth 3"
)

METHODS = ("exhaustive", "greedy", "beam", "evolution")

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_data(
        parser,
        output="where the rows of all that is scored go (JSON Lines); a search that was killed "
        "goes on",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="default: exhaustive where the space is small, else greedy",
    )
    parser.add_argument(
        "--encoder-depth", metavar="N", type=int, help="layers of the encoder that stay"
    )
    parser.add_argument(
        "--decoder-depth", metavar="N", type=int, help="layers of the decoder that stay"
    )
    parser.add_argument("--target-params", metavar="N", help="at most so many parameters, e.g. 30M")
    parser.add_argument(
        "--target-latency-ms",
        metavar="MS",
        type=float,
        help="at most so long a sentence, predicted",
    )
    parser.add_argument(
        "--target-memory", metavar="BYTES", help="at most so much memory for the weights, e.g. 120M"
    )
    parser.add_argument(
        "--beam-width",
        metavar="N",
        type=int,
        default=4,
        help="plans that are followed (default: 4)",
    )
    parser.add_argument(
        "--generations", metavar="N", type=int, default=10, help="of the evolution (default: 10)"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="an optuna storage that several machines share"
    )
    parser.add_argument(
        "--screen",
        metavar="SHARE",
        type=float,
        help="score all on this share of the data first, the best on all of it",
    )
    parser.add_argument(
        "--test-subset", metavar="SPLIT", help="judge the winner on this subset, too"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=1, help="of the evolution (default: 1)"
    )
    add_decoding(parser, metrics="loss")


def run(args: Namespace) -> None:
    """Run the verb: search on one half of the subset, judge on the other, and on another subset."""
    quiet()
    metrics, request = parse_metrics(args), _request(args)
    if request.latency_ms is not None and "latency" not in metrics:
        metrics.append("latency")  # the winner's is measured, beside the prediction
    subject = load_subject(args)
    request.check(subject.depths)
    from fairseq_layerdrop.evaluation.latency import Stopwatch
    from fairseq_layerdrop.evaluation.search import search
    from fairseq_layerdrop.evaluation.sweep import Results
    from fairseq_layerdrop.evaluation.workers import Workers
    from fairseq_layerdrop.pruning.search import space_size
    from fairseq_layerdrop.reporting.origin import origin

    batches, judged = load_batches(args, subject, half="first"), _judged(args, subject)
    # One stopwatch for the prediction and the winner: the same sentences, the same lengths.
    stopwatch = Stopwatch(subject.loaded, batches, beam=args.beam) if "latency" in metrics else None
    metrics = sorted({*metrics, "loss"})
    measures = {
        name: make_measures(args, subject, part, metrics, stopwatch)
        for name, part in judged.items()
    }
    measured = {name: replace(each, kind="verdict") for name, each in measures.items()}
    workers = Workers()
    results = Results(args.output, origin(args.command)) if workers.first else None
    if workers.first:
        size = space_size(subject.depths, request.counts)
        logger.warning(
            "%s sub-networks; method: %s", f"{size:,}", request.method_for(subject.depths)
        )
    rows, shown = (
        results.rows if results else None,
        bar("passes over the data", shown=workers.first),
    )
    found = search(subject, batches, request, rows, workers, stopwatch=stopwatch, progress=shown)
    if results:
        _report(args, subject, found, measured, results)
    workers.close()


def _request(args: Namespace) -> "Request":
    """What is searched for, as far as it can be known without the model."""
    from fairseq_layerdrop.pruning.budget import parse_amount

    texts = {"parameters": args.target_params, "memory": args.target_memory}
    amounts = {name: parse_amount(text) for name, text in texts.items() if text is not None}
    depths = {"encoder": args.encoder_depth, "decoder": args.decoder_depth}
    from fairseq_layerdrop.evaluation.search import Request

    return Request(
        method=args.method,
        counts={stack: count for stack, count in depths.items() if count is not None},
        latency_ms=args.target_latency_ms,
        screen=args.screen,
        beam_width=args.beam_width,
        generations=args.generations,
        storage=args.storage,
        seed=args.seed,
        **amounts,
    )


def _judged(args: Namespace, subject: "Subject") -> dict[tuple[str, str], "Batches"]:
    """The data that the search does not see, loaded before it: what is wrong with them is said at
    once.
    """
    judged = {(args.gen_subset, "second"): load_batches(args, subject, half="second")}
    if args.test_subset:
        judged[args.test_subset, "all"] = load_batches(args, subject, subset=args.test_subset)
    return judged


def _report(
    args: Namespace,
    subject: "Subject",
    found: "Found",
    measured: dict[tuple[str, str], "Measures"],
    results: "Results",
) -> None:
    """Judge the winner on data that the search did not see, beside Every Other at its depth and the
    whole model.
    """
    from fairseq_layerdrop.evaluation.preflight import warnings
    from fairseq_layerdrop.evaluation.search import predict
    from fairseq_layerdrop.evaluation.sweep import compare, public, sweep

    winner, evenly, plans = found.winner, found.evenly, list(found.losses)
    facts: dict[str, Any] = {
        "winner": str(winner),
        "flags": " ".join(f"--{stack}-keep {join(kept)}" for stack, kept in winner.kept.items()),
        "path": [{"plan": str(trial.plan), "loss": trial.score} for trial in found.trials],
        "searched": {str(plan): loss for plan, loss in found.losses.items()},
        "judged": [],
    }
    if found.latency:
        facts["predicted_ms"] = predict(found.latency, winner)
    warnings(subject, next(iter(measured.values())).batches, [winner])
    for (subset, half), measures in measured.items():
        rows = sweep(subject, plans, measures, results, progress=bar(f"judging on {subset}"))
        pair = {plan: rows[plan] for plan in (winner, evenly)}
        tests = compare(pair, evenly, measures.references) if len(pair) > 1 else []
        for test in tests:
            results.add_test(test)
        public_rows = [public(row) for row in rows.values()]
        facts["judged"].append(
            {"subset": subset, "half": half, "rows": public_rows, "tests": tests}
        )
    print(json.dumps(facts)) if args.json else _print(facts)


def _print(facts: dict[str, Any]) -> None:
    for step in facts["path"]:
        print(f"{step['plan']}: loss {step['loss']:.4f} bits")
    print(f"winner: {facts['winner']}")
    if "predicted_ms" in facts:
        print(f"predicted: {facts['predicted_ms']:.1f} ms a sentence")
    print(f"on the half that it was searched on: {_losses(facts['searched'])}")
    for part in facts["judged"]:
        print(f"on {part['subset']}{', the other half' if part['half'] == 'second' else ''}:")
        for row in part["rows"]:
            print(f"  {row_text(row)}")
        for test in part["tests"]:
            (p,) = test["p_value"].values()
            print(
                f"  the winner against Every Other ({test['against']}): p = {p:.4f} "
                f"({test['metric']}, paired)"
            )
    print(f"to prune: {facts['flags']}")


def _losses(losses: dict[str, float]) -> str:
    return ", ".join(f"{plan} {loss:.4f}" for plan, loss in losses.items())
