# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop average``: write the mean of checkpoints."""

import json
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

import fairseq_layerdrop

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.averaging import Average

SUMMARY = "write the mean of checkpoints' models, as fairseq's scripts/average_checkpoints.py would"
EXAMPLE = "fairseq-layerdrop average checkpoints/ mean.pt --num-epoch-checkpoints 5"

# What fairseq calls the checkpoints of a training, by the option that takes them; each is sorted by
# its number.
NAMES = {
    "epoch": (re.compile(r"checkpoint(\d+)\.pt"), "checkpointEPOCH.pt"),
    "update": (re.compile(r"checkpoint_\d+_(\d+)\.pt"), "checkpoint_EPOCH_UPDATE.pt"),
    "best": (
        re.compile(r"checkpoint\.best_.+_(-?\d+\.?\d*)\.pt"),
        "checkpoint.best_METRIC_VALUE.pt",
    ),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "checkpoints",
        metavar="CKPT",
        nargs="+",
        help="fairseq checkpoints (.pt) of one shape, or with --num-… the folder of a training; "
        "they are not changed; "
        "all but the model's weights is taken from the first",
    )
    parser.add_argument("output", metavar="OUT", help="where the mean goes")
    number = parser.add_mutually_exclusive_group()
    for kind, which in (
        ("epoch", "last N epochs' checkpoints of the folder, newest first"),
        ("update", "last N checkpoints that --save-interval-updates made, newest first"),
        (
            "best",
            "best N checkpoints that --keep-best-checkpoints made, best first: of the "
            "highest value if the "
            "training had --maximize-best-checkpoint-metric (read from the files), else of "
            "the lowest",
        ),
    ):
        help_ = f"average the {which} ({NAMES[kind][1]})"
        number.add_argument(f"--num-{kind}-checkpoints", metavar="N", type=_count, help=help_)
    parser.add_argument(
        "--checkpoint-upper-bound",
        metavar="X",
        type=int,
        help="with --num-epoch-checkpoints: none after epoch X; with --num-update-checkpoints: "
        "none after update X "
        "(default: no bound)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.averaging import Average, check_written

    paths = _inputs(args)
    for path in paths:
        checkpoint.check_target(args.output, source=path, force=True)
    checkpoint.check_target(args.output, force=args.force)
    console, average = Console(stderr=True), Average()
    for path in track(
        paths, "adding", console=console, transient=True, disable=not console.is_terminal
    ):
        _add(average, path)
    mean = average.result(version=fairseq_layerdrop.__version__)

    def check(written: Path) -> None:
        check_written(mean["model"], checkpoint.load(written)["model"])

    with console.status(f"writing {args.output}"):
        checkpoint.save(mean, args.output, force=args.force, check=check)
    facts = _facts(args, paths, average, mean)
    print(json.dumps(facts, indent=2)) if args.json else _print_facts(facts)


def _add(average: "Average", path: Path) -> None:
    """Add a file's checkpoint, and let it go before the next one is read."""
    from fairseq_layerdrop import checkpoint

    found, source = checkpoint.load(path), checkpoint.digest(path)
    try:
        average.add(found, name=str(path), source=source)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _inputs(args: Namespace) -> list[Path]:
    """The files to average, in the order in which fairseq's script takes them."""
    paths = [Path(name) for name in args.checkpoints]
    counts = {kind: getattr(args, f"num_{kind}_checkpoints") for kind in NAMES}
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
    return _of_folder(paths[0], kind, counts[kind], args.checkpoint_upper_bound)


def _of_folder(folder: Path, kind: str, count: int, bound: int | None) -> list[Path]:
    """The last or the best of a folder's checkpoints."""
    pattern, form = NAMES[kind]
    matches = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    numbers = [
        (float(match[1]), match[0]) for match in matches if bound is None or int(match[1]) <= bound
    ]
    if len(numbers) < count:
        within = "" if bound is None else f" up to {bound}"
        found = f"{len(numbers)} files named {form}{within}, not the {count} asked for"
        raise ValueError(f"{folder} holds {found}; ask for fewer, or name files one by one")
    high_first = kind != "best" or _highest_is_best(folder, [match[0] for match in matches])
    return [folder / name for _, name in sorted(numbers, reverse=high_first)[:count]]


def _highest_is_best(folder: Path, names: list[str]) -> bool:
    """Which way the metric in the names goes, from the options of the training that chose these
    files by it.
    """
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.config import plain

    metrics = sorted({name.removeprefix("checkpoint.best_").rpartition("_")[0] for name in names})
    if len(metrics) > 1:
        raise ValueError(
            f"{folder} holds the best by several metrics, {', '.join(metrics)}; name the files "
            "instead"
        )
    first = checkpoint.load(folder / min(names))
    options = plain((first.get("cfg") or {}).get("checkpoint") or first.get("args")) or {}
    return bool(options.get("maximize_best_checkpoint_metric"))


def _facts(
    args: Namespace, paths: list[Path], average: "Average", mean: dict[str, Any]
) -> dict[str, Any]:
    from fairseq_layerdrop.pruning.inspection import parameter_sizes

    dtypes = (average.dtypes, {tensor.dtype for tensor in mean["model"].values()})
    options = {
        "args": mean["args"],
        **{f"cfg.{name}": section for name, section in (mean["cfg"] or {}).items()},
    }
    return {
        "inputs": [str(path) for path in paths],
        "output": args.output,
        "parameters": sum(parameter_sizes(mean["model"]).values()),
        "bytes": Path(args.output).stat().st_size,
        "dtypes": [sorted(str(dtype).removeprefix("torch.") for dtype in both) for both in dtypes],
        "dropped": average.dropped,
        "namespaces": [name for name, section in options.items() if isinstance(section, Namespace)],
    }


def _print_facts(facts: dict[str, Any]) -> None:
    for path in facts["inputs"]:
        print(f"input: {path}")
    before, after = (", ".join(dtypes) for dtypes in facts["dtypes"])
    print(
        f"parameters: {facts['parameters']:,}, "
        f"{before if before == after else f'{before} -> {after}'}"
    )
    print(f"bytes: {facts['bytes']:,}")
    print(
        f"dropped: {', '.join(facts['dropped']) or 'nothing'}; all else but the weights is that "
        "of the first input"
    )
    if facts["namespaces"]:
        names = ", ".join(facts["namespaces"])
        print(
            "kept as a Namespace, which torch 2.6 and later loads only with this package's "
            f"--user-dir: {names}"
        )
    print(f"written and checked: {facts['output']}")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a number of checkpoints is 1 or more, got {text!r}")
    return int(text)
