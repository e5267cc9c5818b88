# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop prune``: write the sub-network that a plan keeps."""

import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fairseq_layerdrop
from fairseq_layerdrop.cli._dictionaries import copy, plan_copies
from fairseq_layerdrop.cli._inside import choose_inside
from fairseq_layerdrop.cli._text import join

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.plan import PruningPlan

SUMMARY = "write the sub-network that a plan keeps, as an ordinary fairseq checkpoint"
EXAMPLE = "fairseq-layerdrop prune full.pt small.pt --encoder-keep 0-11 --decoder-keep every:2"

STRATEGIES = ("even", "spread", "first", "last", "learned")
USER_DIR = '--user-dir "$(fairseq-layerdrop user-dir)"'
SPEC_HELP = (
    "0,2,4 | 0-3,8 | every:N | even:N | spread:N | first:N | last:N | learned:N | all; "
    "0-based (default: all)"
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt); it is not changed"
    )
    parser.add_argument("output", metavar="OUT", help="where the smaller checkpoint goes")
    parser.add_argument(
        "--encoder-keep", metavar="SPEC", help=f"layers of the encoder that stay: {SPEC_HELP}"
    )
    parser.add_argument(
        "--decoder-keep", metavar="SPEC", help=f"layers of the decoder that stay: {SPEC_HELP}"
    )
    parser.add_argument(
        "--target-params",
        metavar="N",
        help="choose the depth of what is not named: the largest model of at most N parameters, "
        "e.g. 30M or 1.2B",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="how --target-params turns a depth into layers (default: even); learned alone: the "
        "layers that the model "
        "learned to keep, as many as ran on average in its training",
    )
    parser.add_argument(
        "--heads-keep",
        metavar="N",
        help="heads of each attention that stay: how many, or 0.5 of them",
    )
    parser.add_argument(
        "--ffn-keep", metavar="N", help="units of each FFN that stay: how many, or 0.5 of them"
    )
    parser.add_argument(
        "--drop-sublayers",
        metavar="LIST",
        help="sub-layers that go, of the input's layers: "
        "encoder:3.ffn,decoder:0.self_attn,decoder:0.encoder_attn",
    )
    parser.add_argument(
        "--importance",
        metavar="FILE",
        help="scores of heads and units, by `importance` (default: their magnitude)",
    )
    parser.add_argument(
        "--keep-optimizer", action="store_true", help="keep Adam's moments of the layers that stay"
    )
    parser.add_argument(
        "--copy-dicts", metavar="DATA", help="copy the dictionaries of this data set beside OUT"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be written; write nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument(
        "--config-style",
        choices=("plain", "namespace"),
        help="plain: loads with torch.load's safe defaults; namespace: for CTranslate2's "
        "converter and for BART "
        "(default: what the model's family can load)",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.surgery import prune_checkpoint
    from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint

    force = args.force or args.dry_run
    checkpoint.check_target(args.output, source=args.checkpoint, force=force)
    copies = plan_copies(args.copy_dicts, Path(args.output), force=force) if args.copy_dicts else {}
    full = upgrade_checkpoint(checkpoint.load(args.checkpoint))
    source = checkpoint.digest(args.checkpoint)
    try:
        plan = _plan(args, full)
        inside = choose_inside(args, full, plan, source)
        small = prune_checkpoint(
            full,
            plan,
            source=source,
            version=fairseq_layerdrop.__version__,
            style=args.config_style,
            keep_optimizer=args.keep_optimizer,
            widths=inside.widths,
        )
    except ValueError as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    facts = {**_facts(args, plan, full, small), "inside": inside.facts}
    if not args.dry_run:
        with Console(stderr=True).status(f"writing {args.output}"):
            checkpoint.save_pruned(
                small, args.output, full, plan, inside=inside.narrow, force=args.force
            )
            copy(copies)
        facts["bytes"] = [Path(name).stat().st_size for name in (args.checkpoint, args.output)]
        facts["dictionaries"] = [str(target) for target in copies.values()]
    print(json.dumps(facts, indent=2)) if args.json else _print(facts)


def _plan(args: Namespace, full: dict[str, Any]) -> "PruningPlan":
    from fairseq_layerdrop.pruning.budget import fit_parameters, parse_amount
    from fairseq_layerdrop.pruning.gates import drop_scores, learned_layers, without_gates
    from fairseq_layerdrop.pruning.plan import PruningPlan
    from fairseq_layerdrop.pruning.stacks import stack_depths
    from fairseq_layerdrop.pruning.upgrade import upgrade_state

    state = upgrade_state(full["model"])
    depths = stack_depths(state)
    scores = drop_scores(state, depths)
    specs = {"encoder": args.encoder_keep, "decoder": args.decoder_keep}
    if args.target_params is None and args.strategy == "learned":
        specs.update(
            {
                stack: spec
                for stack, spec in _as_trained(full, depths).items()
                if specs[stack] is None
            }
        )
    specs = {stack: learned_layers(scores, stack, spec) for stack, spec in specs.items()}
    if args.target_params is None:
        if args.strategy not in (None, "learned"):
            raise ValueError(
                "--strategy goes with --target-params; a strategy by itself is a SPEC, e.g. even:6"
            )
        return PruningPlan.from_specs(specs, depths)
    strategy = args.strategy or STRATEGIES[0]

    def rule(stack: str, count: int) -> str:
        return learned_layers(scores, stack, f"{strategy}:{count}") or "all"

    return fit_parameters(
        without_gates(state), depths, specs, target=parse_amount(args.target_params), rule=rule
    )


def _as_trained(full: dict[str, Any], depths: dict[str, int]) -> dict[str, str]:
    """For each stack the depth that was its mean in training, in whole chunks where layers share
    their weights.
    """
    from fairseq_layerdrop.pruning.config import model_section, training_rates
    from fairseq_layerdrop.pruning.stacks import chunks
    from fairseq_layerdrop.pruning.upgrade import upgrade_state

    rates = training_rates(model_section(full))
    shared = chunks(upgrade_state(full["model"]))
    specs = {}
    for stack, depth in depths.items():
        rate, chunk = rates.get(stack), len(shared[stack][0]) if stack in shared else 1
        mean = depth * (1 - rate) if isinstance(rate, float) else depth
        specs[stack] = f"learned:{max(1, round(mean / chunk)) * chunk}"
    return specs


def _facts(
    args: Namespace, plan: "PruningPlan", full: dict[str, Any], small: dict[str, Any]
) -> dict[str, Any]:
    from fairseq_layerdrop.pruning.config import model_section
    from fairseq_layerdrop.pruning.flags import model_flags
    from fairseq_layerdrop.pruning.inspection import parameter_sizes

    selections = plan.selections.items()
    from_file = "--restore-file" if args.keep_optimizer else "--finetune-from-model"
    training = [
        model_flags(model_section(small)),
        *_positions(small),
        from_file,
        shlex.quote(args.output),
    ]
    if isinstance(small["cfg"]["model"], Namespace) or "layerdrop_shapes" in small["cfg"]["model"]:
        training.insert(0, USER_DIR)
    return {
        "input": args.checkpoint,
        "output": None if args.dry_run else args.output,
        "stacks": {
            stack: {"kept": list(s.kept), "removed": list(s.removed)} for stack, s in selections
        },
        "parameters": [
            sum(parameter_sizes(model).values()) for model in (full["model"], small["model"])
        ],
        "flags": " ".join(f"--{stack}-keep {join(s.kept)}" for stack, s in selections),
        "training_flags": " ".join(training),
        "notes": list(_notes(args, full, small)),
    }


def _positions(small: dict[str, Any]) -> list[str]:
    """RoBERTa and some language models take the number of positions from their task: another, and
    nothing would fit.
    """
    from fairseq_layerdrop.pruning.config import model_section

    found = {
        "--max-positions": small["model"].get("encoder.sentence_encoder.embed_positions.weight")
    }
    if model_section(small).get("max_target_positions") is None:
        found["--max-target-positions"] = small["model"].get("decoder.embed_positions.weight")
    return [
        f"{flag} {len(weight) - 2}" for flag, weight in found.items() if weight is not None
    ]  # padding's index is 1


def _notes(args: Namespace, full: dict[str, Any], small: dict[str, Any]) -> Iterator[str]:
    """What a user should know of this file beside what was asked for."""
    from fairseq_layerdrop.pruning.config import architecture, config_style, model_section
    from fairseq_layerdrop.pruning.stacks import other_lists

    for path, length in other_lists(small["model"]).items():
        yield (
            f"left whole: the {length} layers of {path}, which is no stack that this command prunes"
        )
    if full.get("last_optimizer_state") is not None and not args.keep_optimizer:
        yield "the optimizer's state was left out (--keep-optimizer keeps it)"
    if "ema" in small["extra_state"]:
        yield "the EMA's weights were pruned alike"
    if lost := sorted((full.get("task_state") or {}).keys() - small["task_state"].keys()):
        yield f"left out of the task's state, being objects and no plain data: {', '.join(lost)}"
    if args.config_style == "plain" and config_style(model_section(full)) == "namespace":
        yield (
            "stock fairseq does not load this architecture from plain options: leave "
            "--config-style out"
        )
    if "layerdrop_shapes" in model_section(small):
        yield f"fairseq's own models cannot hold these shapes: it is loaded with {USER_DIR}"
    if isinstance(small["cfg"]["model"], Namespace):
        yield f"its options are in a Namespace, which fairseq on torch >= 2.6 loads with {USER_DIR}"
    name = architecture(model_section(small))
    if (
        re.match("(roberta|m?bart)(_|$)", name)
        and not args.copy_dicts
        and not _has_dictionary(args.output)
    ):
        yield (
            f"from_pretrained looks for dict.txt in {Path(args.output).parent}: --copy-dicts "
            "DATA puts it there"
        )


def _has_dictionary(output: str) -> bool:
    return any(Path(output).parent.glob("dict*.txt"))


def _print(facts: dict[str, Any]) -> None:
    for stack, layers in facts["stacks"].items():
        removed = f"removed {join(layers['removed'])}" if layers["removed"] else "nothing removed"
        print(f"{stack}: kept {join(layers['kept'])}; {removed}")
    for line in facts["inside"]:
        print(line)
    before, after = facts["parameters"]
    print(f"parameters: {before:,} -> {after:,} ({after / before:.0%})")
    if facts["output"]:
        before, after = facts["bytes"]
        print(f"bytes: {before:,} -> {after:,}")
    for note in facts["notes"]:
        print(f"note: {note}")
    print(f"the same again: {facts['flags']}")
    print(f"to train on: {facts['training_flags']}")
    for dictionary in facts.get("dictionaries", []):
        print(f"copied: {dictionary}")
    print(
        f"written and checked: {facts['output']}" if facts["output"] else "dry run: nothing written"
    )
