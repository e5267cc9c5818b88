# SPDX-License-Identifier: MIT
"""The command ``fairseq-layerdrop``: facts on stdout, progress on stderr, exit 0, or 2 and one line."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from rich.console import Console

import fairseq_layerdrop

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.plan import PruningPlan

SPEC_HELP = "0,2,4 | 0-3,8 | every:N | even:N | spread:N | first:N | last:N | all; 0-based (default: all)"


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class Verb(NamedTuple):
    """A verb: its summary, its example, what adds its arguments and what runs it."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(argv: list[str] | None = None) -> int:
    """Run the command; a mistake of the user's is one line on stderr and exit status 2."""
    args = _parser().parse_args(argv)
    try:
        VERBS[args.verb].run(args)
    except OSError as error:
        return _fail(args.verb, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    except ValueError as error:
        return _fail(args.verb, str(error))
    return 0


def _fail(verb: str, message: str) -> int:
    print(f"fairseq-layerdrop {verb}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fairseq-layerdrop", description="Train one Transformer, ship it at any depth.")
    parser.add_argument("--version", action="version", version=fairseq_layerdrop.__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.summary, description=verb.summary, epilog=f"example: {verb.example}")
        verb.arguments(sub)
    return parser


def _user_dir(_: argparse.Namespace) -> None:
    print(Path(fairseq_layerdrop.__file__).parent)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt)")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def _inspect(args: argparse.Namespace) -> None:
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.inspection import describe

    facts = describe(checkpoint.load(args.checkpoint))
    path = Path(args.checkpoint)
    facts = {"file": str(path), "bytes": path.stat().st_size, "format": checkpoint.file_format(path), **facts}
    facts["digest"] = checkpoint.digest(path)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)


def _print_facts(facts: dict[str, Any]) -> None:
    parameters = facts["parameters"]
    rows = [("architecture", f"{facts['architecture']}, task {facts['task']}, {facts['updates']} updates")]
    for stack, about in facts["stacks"].items():
        sizes = " or ".join(f"{n:,}" for n in sorted(set(about["parameters_per_layer"])))
        rows.append(
            (stack, f"{about['depth']} layers of {sizes} parameters; LayerDrop in training {about['layerdrop']}")
        )
        if about["layers_of_the_original"] is not None:
            rows.append(("", f"layers {_join(about['layers_of_the_original'])} of the original"))
    rows.append(("parameters", f"{parameters['total']:,}"))
    rows.append(("", f"{parameters['layers']:,} in layers, {parameters['embeddings']:,} in embeddings and output"))
    extras = [name for name, there in (("optimizer state", facts["optimizer_state"]), ("EMA", facts["ema"])) if there]
    rows.append(("file", f"{facts['bytes']:,} bytes, {facts['format']}, {', '.join(facts['dtypes'] + extras)}"))
    if facts["heads"]:
        rows.append(("heads", ", ".join(facts["heads"])))
    for step in (facts["provenance"] or {}).get("steps", []):
        rows.append(("pruned", f"from {step['source']} by fairseq-layerdrop {step['version']}"))
    for label, text in [*rows, ("digest", facts["digest"])]:
        print(f"{label:<13} {text}".rstrip())


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
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


def _prune(args: argparse.Namespace) -> None:
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


def _pruning_facts(
    args: argparse.Namespace, plan: "PruningPlan", full: dict[str, Any], small: dict[str, Any]
) -> dict[str, Any]:
    from fairseq_layerdrop.pruning.config import model_flags, model_section
    from fairseq_layerdrop.pruning.inspection import parameter_sizes

    selections = plan.selections.items()
    return {
        "input": args.checkpoint,
        "output": None if args.dry_run else args.output,
        "stacks": {stack: {"kept": list(s.kept), "removed": list(s.removed)} for stack, s in selections},
        "parameters": [sum(parameter_sizes(model).values()) for model in (full["model"], small["model"])],
        "flags": " ".join(f"--{stack}-keep {_join(s.kept)}" for stack, s in selections),
        "training_flags": f"{model_flags(model_section(small))} --finetune-from-model {shlex.quote(args.output)}",
    }


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", metavar="ROWS", nargs="+", help="rows of results (JSON Lines); each model is a curve")
    parser.add_argument("folder", metavar="OUT", help="where table.md, figure.png and figure.svg go; made if need be")
    parser.add_argument("--title", default="", help="the figure's title")


def _report(args: argparse.Namespace) -> None:
    from fairseq_layerdrop.evaluation.report import check_rows, draw, markdown
    from fairseq_layerdrop.evaluation.rows import read_rows

    rows = read_rows(args.rows)
    check_rows(rows)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.md"
    table.write_text(markdown(rows), encoding="utf-8")
    for file in (table, *draw(rows, folder / "figure", title=args.title)):
        print(file)


def _print_pruned(facts: dict[str, Any]) -> None:
    for stack, layers in facts["stacks"].items():
        removed = f"removed {_join(layers['removed'])}" if layers["removed"] else "nothing removed"
        print(f"{stack}: kept {_join(layers['kept'])}; {removed}")
    before, after = facts["parameters"]
    print(f"parameters: {before:,} -> {after:,} ({after / before:.0%})")
    if facts["output"]:
        before, after = facts["bytes"]
        print(f"bytes: {before:,} -> {after:,} (no optimizer state)")
    print(f"the same again: {facts['flags']}")
    print(f"to train on: {facts['training_flags']}")
    print(f"written and checked: {facts['output']}" if facts["output"] else "dry run: nothing written")


def _join(indices: Iterable[int]) -> str:
    return ",".join(map(str, indices))


VERBS = {
    "user-dir": Verb(
        "print the folder for fairseq's --user-dir",
        'fairseq-train DATA --user-dir "$(fairseq-layerdrop user-dir)" --arch layerdrop_transformer …',
        lambda _: None,
        _user_dir,
    ),
    "inspect": Verb(
        "show what is in a checkpoint: stacks, parameters, LayerDrop rates, provenance",
        "fairseq-layerdrop inspect checkpoint_best.pt",
        _inspect_arguments,
        _inspect,
    ),
    "prune": Verb(
        "write the sub-network that a plan keeps, as an ordinary fairseq checkpoint",
        "fairseq-layerdrop prune full.pt small.pt --encoder-keep 0-11 --decoder-keep every:2",
        _prune_arguments,
        _prune,
    ),
    "report": Verb(
        "draw rows of results: a Markdown table, and quality against depth as PNG and SVG",
        "fairseq-layerdrop report rows.jsonl results/",
        _report_arguments,
        _report,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
