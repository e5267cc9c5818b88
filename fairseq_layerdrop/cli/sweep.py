# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop sweep``: quality, speed and size of many sub-networks."""

import json
from argparse import ArgumentParser, Namespace

from fairseq_layerdrop.cli._decoding import add_decoding
from fairseq_layerdrop.cli._evaluation import (
    add_compensate,
    add_data,
    bar,
    evaluation_options,
    load,
)
from fairseq_layerdrop.cli._text import row_text

SUMMARY = (
    "measure sub-networks: a row a plan, as they come; what is there already is not measured again"
)
EXAMPLE = (
    "fairseq-layerdrop sweep DATA rows.jsonl --path full.pt "
    '--points "6+6 6+3 3+3 all/first:1" --metrics loss,bleu'
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_data(
        parser, output="where the rows go (JSON Lines); rows that are there are kept", subset="test"
    )
    parser.add_argument(
        "--points",
        metavar="PLANS",
        required=True,
        help="plans, separated by blanks; trained: those of --train-plans; the whole model is "
        "always one",
    )
    add_compensate(parser)
    add_decoding(parser, metrics="loss")
    parser.add_argument(
        "--reference", metavar="FILE", help="the target side as text (default: from the data)"
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    subject, batches = load(args)
    from fairseq_layerdrop.evaluation.preflight import warn_beyond_training
    from fairseq_layerdrop.evaluation.sweep import Results, compare, public, sweep
    from fairseq_layerdrop.operations._evaluation import measures_of
    from fairseq_layerdrop.reporting.origin import origin

    plans = [subject.whole, *subject.plans(args.points)]
    measures = measures_of(subject, batches, evaluation_options(args))
    with Results(args.output, origin(args.command)) as results:
        warn_beyond_training(subject, batches, plans)
        rows = sweep(subject, plans, measures, results, progress=bar("plans"))
        for test in compare(rows, subject.whole, measures.references) if len(rows) > 1 else ():
            results.add_test(test)
    for row in rows.values():
        print(json.dumps(public(row)) if args.json else row_text(row))
