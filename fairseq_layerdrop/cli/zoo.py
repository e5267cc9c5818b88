# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop zoo``: a stock checkpoint for each of many plans, measured and checked."""

import json
from argparse import ArgumentParser, Namespace

from fairseq_layerdrop.cli._check import add_check
from fairseq_layerdrop.cli._decoding import add_decoding
from fairseq_layerdrop.cli._evaluation import (
    add_compensate,
    add_data,
    bar,
    evaluation_options,
    quiet,
)
from fairseq_layerdrop.cli._text import row_text

SUMMARY = "write a checkpoint for each of many plans, with a manifest of what each is worth"
EXAMPLE = (
    "fairseq-layerdrop zoo DATA zoo/ --path full.pt "
    '--points "6+6 6+3 3+3" --metrics loss,bleu,latency'
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_data(
        parser,
        output="the folder for the checkpoints, manifest.json and rows.jsonl; made if need be",
    )
    parser.add_argument(
        "--points",
        metavar="PLANS",
        required=True,
        help="plans, separated by blanks; trained: those of --train-plans",
    )
    add_compensate(parser)
    add_decoding(parser, metrics="loss")
    add_check(parser)


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.operations.zoo import zoo

    quiet()
    manifest = zoo(
        args.path,
        args.data,
        args.output,
        args.points,
        evaluation_options(args),
        check=args.check,
        command=args.command,
        progress=bar,
    )
    for model in manifest["models"]:
        print(json.dumps(model) if args.json else f"{model['file']}: {row_text(model)}")
