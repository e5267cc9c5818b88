# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop search``: the best sub-network for a depth, a size, a latency or a memory."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import Any

from fairseq_layerdrop.cli._decoding import add_decoding
from fairseq_layerdrop.cli._evaluation import add_data, bar, evaluation_options, quiet
from fairseq_layerdrop.cli._text import keep_flags, row_text
from fairseq_layerdrop.operations._choices import METHODS

SUMMARY = (
    "find the best sub-network within a budget; every plan that is scored is a row, and "
    "none is scored twice"
)
EXAMPLE = (
    "fairseq-layerdrop search DATA trials.jsonl --path full.pt --encoder-depth 3 --decoder-depth 3"
)


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
    _add_budget(parser)
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
    parser.add_argument(
        "--compensate",
        action="store_true",
        help="compensate the best few as `prune --compensate` does, on DATA's train, and score "
        "them again; the best of these wins",
    )
    add_decoding(parser, metrics="loss")


def _add_budget(parser: ArgumentParser) -> None:
    """What the winner may have."""
    parser.add_argument(
        "--encoder-depth", metavar="N", type=int, help="layers of the encoder that stay"
    )
    parser.add_argument(
        "--decoder-depth", metavar="N", type=int, help="layers of the decoder that stay"
    )
    parser.add_argument(
        "--target-params", metavar="N", help="at most this many parameters, e.g. 30M"
    )
    parser.add_argument(
        "--target-latency-ms",
        metavar="MS",
        type=float,
        help="at most this long a sentence, predicted",
    )
    parser.add_argument(
        "--target-memory",
        metavar="BYTES",
        help="at most this much memory for the weights, e.g. 120M",
    )


def run(args: Namespace) -> None:
    """Run the verb: search on one half of the subset, judge on the other, and on another subset."""
    from fairseq_layerdrop.evaluation.search import SearchOptions
    from fairseq_layerdrop.operations.search import search

    quiet()
    names = [field.name for field in fields(SearchOptions)]
    facts = search(
        args.path,
        args.data,
        args.output,
        SearchOptions(**{name: getattr(args, name) for name in names}),
        evaluation_options(args),
        test_subset=args.test_subset,
        command=args.command,
        progress=bar,
    )
    if facts:
        facts["flags"] = keep_flags(facts["kept"])
        if args.compensate:
            facts["flags"] += f" --compensate {shlex.quote(args.data)}"
        print(json.dumps(facts)) if args.json else _print(facts)


def _print(facts: dict[str, Any]) -> None:
    for step in facts["path"]:
        print(f"{step['plan']}: loss {step['loss']:.4f} bits")
    print(f"winner: {facts['winner']}")
    if "predicted_ms" in facts:
        print(f"predicted: {facts['predicted_ms']:.1f} ms a sentence")
    print(f"on the half that it was searched on: {_losses(facts['searched'])}")
    if facts["compensated"]:
        print(f"the best of them compensated, on that half: {_losses(facts['compensated'])}")
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
