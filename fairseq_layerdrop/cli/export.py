# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop export``: hand a model to a fast inference engine, or its weights to other
programs.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import fairseq_layerdrop
from fairseq_layerdrop.cli._evaluation import quiet
from fairseq_layerdrop.operations._dictionaries import copy, plan_copies

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.source import Source

SUMMARY = "write a model as a folder for CTranslate2, a fast inference engine, or as safetensors"
EXAMPLE = "fairseq-layerdrop export small.pt DATA small.ct2 --to ctranslate2 --quantization int8"

QUANTIZATIONS = (
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
USES = {
    "translator": """\
import ctranslate2
translator = ctranslate2.Translator({output!r})
limits = dict(max_decoding_length=200, max_input_length=0)
result = translator.translate_batch([PIECES], beam_size=5, **limits)
print(result[0].hypotheses[0])
""",
    "generator": """\
import ctranslate2
generator = ctranslate2.Generator({output!r})
print(generator.score_batch([["</s>", *WORDS]], max_input_length=0)[0].log_probs)
""",
    "safetensors": """\
from safetensors import safe_open
with safe_open({output!r} + "/model.safetensors", "pt") as file:
    state, ties = {{name: file.get_tensor(name) for name in file.keys()}}, file.metadata()
""",
}

Write = Callable[[Path], None]
"""Write ``new``, the folder to be, and what is needed for that, into a folder to work in."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt), pruned or not; not changed"
    )
    parser.add_argument(
        "data", metavar="DATA", help="the data set in fairseq's binary form, for its dictionaries"
    )
    parser.add_argument("output", metavar="OUT", help="the folder to write")
    parser.add_argument("--to", choices=[*_FORMS], required=True, help="the form")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="how CTranslate2's weights are stored (default: in single precision)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace OUT, if it is a folder that an export wrote"
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint, export

    if args.quantization and args.to != "ctranslate2":
        raise ValueError("--quantization goes with --to ctranslate2")
    export.check_installed(args.to)
    checkpoint.check_folder(args.output, ours=export.FILES, force=args.force)
    plan_copies(args.data, Path(args.output) / "model", force=True, of="DATA")
    quiet()
    full = checkpoint.open_source(args.checkpoint)
    with checkpoint.naming_file(args.checkpoint):
        write = _FORMS[args.to](args, _stock(full))
    with (
        Console(stderr=True).status(f"writing {args.output}"),
        checkpoint.new_folder(args.output, ours=export.FILES, force=args.force) as scratch,
    ):
        write(scratch)
    facts = _facts(args, full.depths)
    print(json.dumps(facts, indent=2)) if args.json else _print(facts)


def _stock(full: "Source") -> dict[str, Any]:
    """The whole model as a stock checkpoint, whatever wrote it."""
    from fairseq_layerdrop.pruning.plan import PruningPlan
    from fairseq_layerdrop.pruning.surgery import prune_checkpoint

    whole = PruningPlan.from_specs({}, full.depths)
    return prune_checkpoint(full, whole, version=fairseq_layerdrop.__version__, style="plain")


def _to_ctranslate2(args: Namespace, stock: dict[str, Any]) -> Write:
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.export.ctranslate2 import convert, for_converter

    readable = for_converter(stock)

    def write(scratch: Path) -> None:
        checkpoint.save(readable, scratch / "checkpoint.pt")
        convert(scratch / "checkpoint.pt", args.data, scratch / "new", args.quantization)

    return write


def _to_safetensors(args: Namespace, stock: dict[str, Any]) -> Write:
    from fairseq_layerdrop.export import safetensors

    def write(scratch: Path) -> None:
        new = scratch / "new"
        new.mkdir()
        safetensors.write(stock, new)
        copy(plan_copies(args.data, new / "model", force=True, of="DATA"))

    return write


_FORMS: dict[str, Callable[[Namespace, dict[str, Any]], Write]] = {
    "ctranslate2": _to_ctranslate2,
    "safetensors": _to_safetensors,
}


def _facts(args: Namespace, depths: dict[str, int]) -> dict[str, Any]:
    files = sorted(path for path in Path(args.output).rglob("*") if path.is_file())
    engine = "translator" if "encoder" in depths else "generator"
    use = USES["safetensors" if args.to == "safetensors" else engine]
    return {
        "checkpoint": args.checkpoint,
        "output": args.output,
        "to": args.to,
        "quantization": args.quantization,
        "depth": depths,
        "bytes": [Path(args.checkpoint).stat().st_size, sum(path.stat().st_size for path in files)],
        "files": [path.relative_to(args.output).as_posix() for path in files],
        "use": use.format(output=args.output).splitlines(),
    }


def _print(facts: dict[str, Any]) -> None:
    print(f"depth: {', '.join(f'{stack} {depth}' for stack, depth in facts['depth'].items())}")
    if facts["to"] == "ctranslate2":
        print(f"quantization: {facts['quantization'] or 'none'}")
    before, after = facts["bytes"]
    print(f"bytes: {before:,} -> {after:,}")
    print(f"written: {facts['output']}: {', '.join(facts['files'])}")
    print("use it by:", *facts["use"], sep="\n  ")
