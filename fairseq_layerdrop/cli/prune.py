# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop prune``: write the sub-network that a plan keeps."""

import json
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from typing import Any

from rich.console import Console

from fairseq_layerdrop.cli._check import add_check, add_user_dir
from fairseq_layerdrop.cli._evaluation import quiet
from fairseq_layerdrop.cli._text import as_flags, join, keep_flags
from fairseq_layerdrop.operations._choices import CONFIG_STYLES, STRATEGIES

SUMMARY = "write the sub-network that a plan keeps, as an ordinary fairseq checkpoint"
EXAMPLE = "fairseq-layerdrop prune full.pt small.pt --encoder-keep 0-11 --decoder-keep every:2"

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
    _add_layers(parser.add_argument_group("layers", "what is not named stays whole"))
    _add_insides(parser.add_argument_group("inside the layers"))
    add_compensation(parser.add_argument_group("compensation"))
    _add_output(parser.add_argument_group("output"))


def _add_layers(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--encoder-keep", metavar="SPEC", help=f"layers of the encoder that stay: {SPEC_HELP}"
    )
    group.add_argument(
        "--decoder-keep", metavar="SPEC", help=f"layers of the decoder that stay: {SPEC_HELP}"
    )
    group.add_argument(
        "--keep",
        metavar="PATH=SPEC",
        action="append",
        default=[],
        type=_by_path,
        help="layers that stay of any other list, by its path (inspect names them): "
        "encoder.adaptor.layers=0,1; may be repeated",
    )
    group.add_argument(
        "--target-params",
        metavar="N",
        help="choose the depth of what is not named: the largest model of at most N parameters, "
        "e.g. 30M or 1.2B",
    )
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="how --target-params turns a depth into layers (default: even); without it, learned: "
        "the layers that the model learned to keep, as many as ran on average in its training",
    )


def _add_insides(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--heads-keep",
        metavar="N",
        help="heads of each attention that stay: how many, or 0.5 of them",
    )
    group.add_argument(
        "--ffn-keep", metavar="N", help="units of each FFN that stay: how many, or 0.5 of them"
    )
    group.add_argument(
        "--sublayers-remove",
        metavar="LIST",
        help="sub-layers that go, of the input's layers: "
        "encoder:3.ffn,decoder:0.self_attn,decoder:0.encoder_attn",
    )
    group.add_argument("--drop-sublayers", dest="sublayers_remove", help=SUPPRESS)  # its old name
    group.add_argument(
        "--importance",
        metavar="FILE",
        help="scores of heads and units, by `importance` (default: their magnitude)",
    )


def _add_output(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--dry-run", action="store_true", help="say what would be written; write nothing"
    )
    group.add_argument("--force", action="store_true", help="replace OUT if it is there")
    group.add_argument(
        "--keep-optimizer", action="store_true", help="keep Adam's moments of the layers that stay"
    )
    group.add_argument(
        "--copy-dicts", metavar="DATA", help="copy the dictionaries of this data set beside OUT"
    )
    group.add_argument(
        "--config-style",
        choices=CONFIG_STYLES,
        help="plain: loads with torch.load's safe defaults; namespace: for CTranslate2's "
        "converter and for BART (default: what the model's family can load)",
    )
    add_check(group)
    add_user_dir(group)
    group.add_argument("--json", action="store_true", help="print the facts as JSON")


def add_compensation(group: ArgumentParser | _ArgumentGroup) -> None:
    """The arguments of ``--compensate``."""
    group.add_argument(
        "--compensate",
        metavar="DATA",
        help="refit layers that stay on this data set, so that they make up for those that go; "
        "needs fairseq, and no training: seconds to minutes",
    )
    group.add_argument(
        "--compensate-subset",
        metavar="SPLIT",
        help="of that data set (default: train, or valid where there is no train)",
    )
    group.add_argument(
        "--compensate-tokens",
        metavar="N",
        type=int,
        default=30_000,
        help="about N of its tokens; a quarter of the sentences is held out (default: 30000)",
    )
    group.add_argument(
        "--device", default="cpu", help="where --compensate computes, cpu or cuda (default: cpu)"
    )


def _by_path(text: str) -> tuple[str, str]:
    path, equals, spec = text.partition("=")
    if not (path and equals and spec):
        raise ArgumentTypeError(f"a list and its layers are PATH=SPEC, got {text!r}")
    return path, spec


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.operations.prune import prune

    if args.compensate:
        quiet()
    with Console(stderr=True).status(f"pruning {args.checkpoint}"):
        facts = prune(
            args.checkpoint,
            args.output,
            {"encoder": args.encoder_keep, "decoder": args.decoder_keep, **dict(args.keep)},
            target_params=args.target_params,
            strategy=args.strategy,
            heads_keep=args.heads_keep,
            ffn_keep=args.ffn_keep,
            sublayers_remove=args.sublayers_remove,
            importance=args.importance,
            compensate=args.compensate,
            compensate_subset=args.compensate_subset,
            compensate_tokens=args.compensate_tokens,
            device=args.device,
            keep_optimizer=args.keep_optimizer,
            copy_dicts=args.copy_dicts,
            config_style=args.config_style,
            check=args.check,
            user_dir=args.user_dir,
            dry_run=args.dry_run,
            force=args.force,
        )
    facts["flags"] = keep_flags({name: kept["kept"] for name, kept in facts["stacks"].items()})
    facts["notes"] = [as_flags(note, args) for note in facts["notes"]]
    print(json.dumps(facts, indent=2)) if args.json else _print(facts)


def _print(facts: dict[str, Any]) -> None:
    for stack, layers in facts["stacks"].items():
        removed = f"removed {join(layers['removed'])}" if layers["removed"] else "nothing removed"
        print(f"{stack}: kept {join(layers['kept'])}; {removed}")
    for line in facts["inside"]:
        print(line)
    if facts["compensated"]:
        print_compensated(facts["compensated"])
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
    if facts["output"]:
        print(f"check: {facts['check']}")
        print(f"written and checked: {facts['output']}")
    else:
        print("dry run: nothing written")


def print_compensated(facts: dict[str, Any]) -> None:
    """What became of each gap, and what all of it is worth."""
    fitted, held_out = facts["sentences"]
    print(f"compensated on {fitted:,} sentences of {facts['subset']}, {held_out:,} held out:")
    for line in facts["lines"]:
        print(f"  {line}")
    loss = facts["loss"]
    print(f"held-out loss: {loss['cut']:.4f} -> {loss['compensated']:.4f} bits")
