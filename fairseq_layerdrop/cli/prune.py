# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop prune``: write the sub-network that a plan keeps."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fairseq_layerdrop
from fairseq_layerdrop.cli._text import join

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.plan import PruningPlan

SUMMARY = "write the sub-network that a plan keeps, as an ordinary fairseq checkpoint"
EXAMPLE = "fairseq-layerdrop prune full.pt small.pt --encoder-keep 0-11 --decoder-keep every:2"

SPEC_HELP = "0,2,4 | 0-3,8 | every:N | even:N | spread:N | first:N | last:N | all; 0-based (default: all)"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt); it is not changed")
    parser.add_argument("output", metavar="OUT", help="where the smaller checkpoint goes")
    parser.add_argument("--encoder-keep", metavar="SPEC", help=f"layers of the encoder that stay: {SPEC_HELP}")
    parser.add_argument("--decoder-keep", metavar="SPEC", help=f"layers of the decoder that stay: {SPEC_HELP}")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written; write nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument(
        "--config-style",
        choices=("plain", "namespace"),
        default="plain",
        help="plain: loads with torch.load's safe defaults (default); namespace: for CTranslate2's converter",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.plan import PruningPlan
    from fairseq_layerdrop.pruning.surgery import check_surgery, prune_checkpoint, stack_depths

    checkpoint.check_target(args.output, source=args.checkpoint, force=args.force or args.dry_run)
    full = checkpoint.load(args.checkpoint)
    source, version = checkpoint.digest(args.checkpoint), fairseq_layerdrop.__version__
    specs = {"encoder": args.encoder_keep, "decoder": args.decoder_keep}
    try:
        plan = PruningPlan.from_specs(specs, stack_depths(full["model"]))
        small = prune_checkpoint(full, plan, source=source, version=version, style=args.config_style)
    except ValueError as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    facts = _pruning_facts(args, plan, full, small)
    if not args.dry_run:

        def check(written: Path) -> None:
            check_surgery(full["model"], checkpoint.load(written)["model"], plan)

        with Console(stderr=True).status(f"writing {args.output}"):
            checkpoint.save(small, args.output, force=args.force, check=check)
        facts["bytes"] = [Path(name).stat().st_size for name in (args.checkpoint, args.output)]
    print(json.dumps(facts, indent=2)) if args.json else _print_pruned(facts)


def _pruning_facts(args: Namespace, plan: "PruningPlan", full: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    from fairseq_layerdrop.pruning.config import model_flags, model_section
    from fairseq_layerdrop.pruning.inspection import parameter_sizes

    selections = plan.selections.items()
    return {
        "input": args.checkpoint,
        "output": None if args.dry_run else args.output,
        "stacks": {stack: {"kept": list(s.kept), "removed": list(s.removed)} for stack, s in selections},
        "parameters": [sum(parameter_sizes(model).values()) for model in (full["model"], small["model"])],
        "flags": " ".join(f"--{stack}-keep {join(s.kept)}" for stack, s in selections),
        "training_flags": f"{model_flags(model_section(small))} --finetune-from-model {shlex.quote(args.output)}",
    }


def _print_pruned(facts: dict[str, Any]) -> None:
    for stack, layers in facts["stacks"].items():
        removed = f"removed {join(layers['removed'])}" if layers["removed"] else "nothing removed"
        print(f"{stack}: kept {join(layers['kept'])}; {removed}")
    before, after = facts["parameters"]
    print(f"parameters: {before:,} -> {after:,} ({after / before:.0%})")
    if facts["output"]:
        before, after = facts["bytes"]
        print(f"bytes: {before:,} -> {after:,} (no optimizer state)")
    print(f"the same again: {facts['flags']}")
    print(f"to train on: {facts['training_flags']}")
    print(f"written and checked: {facts['output']}" if facts["output"] else "dry run: nothing written")
