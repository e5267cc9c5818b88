# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop heal``: a family of pruned checkpoints, each fine-tuned after the cut."""

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fairseq_layerdrop.cli._check import add_user_dir
from fairseq_layerdrop.cli._evaluation import quiet

SUMMARY = (
    "cut a checkpoint to many depths and heal each: compensated, then fine-tuned with the whole "
    "model as its teacher"
)
EXAMPLE = 'fairseq-layerdrop heal DATA healed/ --path full.pt --points "6+3 6+1" -- --dropout 0'


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments; those behind ``--`` are of ``fairseq-train``."""
    parser.add_argument("data", metavar="DATA", help="the data set that the model was trained on")
    parser.add_argument(
        "output", metavar="OUT", help="the folder for the checkpoints and manifest.json"
    )
    parser.add_argument("--path", metavar="CKPT", required=True, help="the whole model (.pt)")
    parser.add_argument(
        "--points",
        metavar="PLANS",
        required=True,
        help="plans, separated by blanks; trained: those of --train-plans",
    )
    parser.add_argument(
        "--share",
        metavar="S",
        type=float,
        default=0.25,
        help="updates a point, as a share of the whole model's (default: 0.25)",
    )
    parser.add_argument(
        "--max-update", metavar="N", type=int, help="N updates a point instead of a share"
    )
    parser.add_argument(
        "--from-whole",
        action="store_true",
        help="start each point from the whole model, not from the smallest healed one that has "
        "its layers",
    )
    parser.add_argument(
        "--no-teacher", action="store_true", help="fine-tune on the labels without the teacher"
    )
    parser.add_argument(
        "--gen-subset", metavar="SPLIT", default="valid", help="to score on (default: valid)"
    )
    add_user_dir(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.operations._heal_options import HealOptions
    from fairseq_layerdrop.operations.heal import heal

    quiet()
    recipe = HealOptions(
        share=args.share,
        max_update=args.max_update,
        chained=not args.from_whole,
        teacher=not args.no_teacher,
        flags=tuple(args.passed_on),
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, updates: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"healing {name}", total=updates)
            bars.update(tasks[name], completed=done)

        manifest = heal(
            args.path,
            args.data,
            args.output,
            args.points,
            recipe,
            subset=args.gen_subset,
            user_dir=args.user_dir,
            progress=progress,
        )
    print(json.dumps(manifest)) if args.json else _print(manifest)


def _print(manifest: dict[str, Any]) -> None:
    print(f"whole: loss {manifest['source']['loss']:.4f} bits on {manifest['data']['subset']}")
    for model in manifest["models"]:
        loss = model["loss"]
        print(
            f"{model['file']}: cut {loss['cut']:.4f}, compensated {loss['compensated']:.4f}, "
            f"healed {loss['healed']:.4f}; {model['parameters']:,} parameters, "
            f"{model['updates']:,} updates in {model['seconds']:,.0f} s"
        )
