# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop importance``: which heads and FFN units a model can do without."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import track

SUMMARY = "measure how much the loss depends on each attention head and FFN unit, for prune --importance"
EXAMPLE = "fairseq-layerdrop importance DATA --path full.pt --structure head scores.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("data", metavar="DATA", help="a data set in fairseq's binary form")
    parser.add_argument("output", metavar="OUT", help="where the scores go (JSON); replaced if it is there")
    parser.add_argument("--path", metavar="CKPT", required=True, help="a fairseq checkpoint (.pt)")
    parser.add_argument(
        "--structure", choices=("head", "ffn"), action="append", help="what to score (default: heads and FFN units)"
    )
    parser.add_argument("--gen-subset", metavar="SPLIT", default="valid", help="of the data (default: valid)")
    parser.add_argument("--batches", metavar="N", type=int, default=8, help="how many batches (default: 8)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="sentences a batch (default: 32)")
    parser.add_argument("--json", action="store_true", help="print what was written")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint

    checkpoint.load(args.path)  # says in one line what is wrong with a file
    if not Path(args.output).absolute().parent.is_dir():
        raise ValueError(f"there is no directory {Path(args.output).parent} for the output; make it first")
    from fairseq_layerdrop.evaluation.importance import STRUCTURES, gradient_scores

    structures = args.structure or list(STRUCTURES)
    console = Console(stderr=True)
    scores, sentences = gradient_scores(
        args.data,
        args.path,
        structures=structures,
        subset=args.gen_subset,
        batches=args.batches,
        max_sentences=args.batch_size,
        progress=lambda samples: track(list(samples), "batches", console=console, transient=True),
    )
    facts = {
        "checkpoint": checkpoint.digest(args.path),
        "data": args.data,
        "subset": args.gen_subset,
        "sentences": sentences,
        "measure": "gradient x weight",
        "structures": structures,
        "scores": scores,
    }
    Path(args.output).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(facts))
    else:
        _print(facts["scores"], args.output, sentences)


def _print(scores: dict[str, list[float]], output: str, sentences: int) -> None:
    for path, values in scores.items():
        least = min(range(len(values)), key=values.__getitem__)
        print(f"{path}: {len(values)} from {min(values):.2g} (number {least}) to {max(values):.2g}")
    print(f"measured on {sentences:,} sentences; written: {output}")
