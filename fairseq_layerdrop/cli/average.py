# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop average``: write the mean of checkpoints."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from fairseq_layerdrop.cli._check import add_check, add_user_dir
from fairseq_layerdrop.cli._evaluation import bar

SUMMARY = "write the mean of checkpoints' models, as fairseq's scripts/average_checkpoints.py would"
EXAMPLE = "fairseq-layerdrop average checkpoints/ mean.pt --num-epoch-checkpoints 5"

KINDS = {
    "epoch": "checkpointEPOCH.pt",
    "update": "checkpoint_EPOCH_UPDATE.pt",
    "best": "checkpoint.best_METRIC_VALUE.pt",
}
"""Of the checkpoints of a training: one option takes each, by its name."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "checkpoints",
        metavar="CKPT",
        nargs="+",
        help="fairseq checkpoints (.pt) of one shape, or with --num-… the folder of a training; "
        "they are not changed; all but the model's weights is taken from the first",
    )
    parser.add_argument("output", metavar="OUT", help="where the mean goes")
    number = parser.add_mutually_exclusive_group()
    for kind, which in (
        ("epoch", "last N epochs' checkpoints of the folder, newest first"),
        ("update", "last N checkpoints that --save-interval-updates made, newest first"),
        (
            "best",
            "best N checkpoints that --keep-best-checkpoints made, best first: of the highest "
            "value if the training had --maximize-best-checkpoint-metric (read from the files), "
            "else of the lowest",
        ),
    ):
        help_ = f"average the {which} ({KINDS[kind]})"
        number.add_argument(f"--num-{kind}-checkpoints", metavar="N", type=_count, help=help_)
    parser.add_argument(
        "--checkpoint-upper-bound",
        metavar="X",
        type=int,
        help="with --num-epoch-checkpoints: none after epoch X; with --num-update-checkpoints: "
        "none after update X (default: no bound)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    add_check(parser)
    add_user_dir(parser)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.operations.average import average

    facts = average(
        _inputs(args),
        args.output,
        check=args.check,
        user_dir=args.user_dir,
        force=args.force,
        progress=bar("adding"),
    )
    print(json.dumps(facts, indent=2)) if args.json else _print_facts(facts)


def _inputs(args: Namespace) -> list[Path]:
    """The files to average, in the order in which fairseq's script takes them."""
    paths = [Path(name) for name in args.checkpoints]
    counts = {kind: getattr(args, f"num_{kind}_checkpoints") for kind in KINDS}
    kind = next((kind for kind, count in counts.items() if count is not None), None)
    if args.checkpoint_upper_bound is not None and kind not in ("epoch", "update"):
        raise ValueError(
            "--checkpoint-upper-bound goes with --num-epoch-checkpoints or --num-update-checkpoints"
        )
    folders = [path for path in paths if path.is_dir()]
    if kind is None:
        if folders:
            raise ValueError(
                f"{folders[0]} is a directory; say which of its files, e.g. by "
                "--num-epoch-checkpoints 5"
            )
        return paths
    if folders != paths or len(paths) > 1:
        raise ValueError(
            f"--num-{kind}-checkpoints takes one folder, got {', '.join(args.checkpoints)}"
        )
    from fairseq_layerdrop.operations.average import checkpoints_of

    return checkpoints_of(paths[0], kind, counts[kind], upper_bound=args.checkpoint_upper_bound)


def _print_facts(facts: dict[str, Any]) -> None:
    for path in facts["inputs"]:
        print(f"input: {path}")
    dtypes = " -> ".join(dict.fromkeys(", ".join(names) for names in facts["dtypes"]))
    print(f"parameters: {facts['parameters']:,}, {dtypes}")
    print(f"bytes: {facts['bytes']:,}")
    print(
        f"left out: {', '.join(facts['left_out']) or 'nothing'}; all else but the weights is that "
        "of the first input"
    )
    if facts["namespaces"]:
        names = ", ".join(facts["namespaces"])
        print(
            "kept as a Namespace, which torch 2.6 and later loads only with this package's "
            f"--user-dir: {names}"
        )
    print(f"check: {facts['check']}")
    print(f"written and checked: {facts['output']}")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a number of checkpoints is 1 or more, got {text!r}")
    return int(text)
