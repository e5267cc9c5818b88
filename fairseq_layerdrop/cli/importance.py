# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop importance``: which layers, heads and FFN units a model can do without."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fairseq_layerdrop.cli._evaluation import add_data, bar, load

SUMMARY = "measure how much each layer matters; or each head and FFN unit, for prune --importance"
EXAMPLE = "fairseq-layerdrop importance DATA importance.jsonl --path full.pt"

MEASURES = ("leave-one-out", "random-subsets", "angular")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_data(
        parser,
        output="where the result goes: rows of layers (JSON Lines), or scores of heads and units "
        "(JSON)",
    )
    parser.add_argument(
        "--structure",
        choices=("layer", "head", "ffn"),
        action="append",
        help="what is measured (default: layer)",
    )
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        action="append",
        help="of layers (default: all): the loss without it; the mean loss of 20 random halves "
        "without it; the angle between what enters and what leaves it",
    )
    parser.add_argument(
        "--batches",
        metavar="N",
        type=int,
        default=8,
        help="for heads and units, spread over the subset (default: 8)",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    structures = args.structure or ["layer"]
    if "layer" in structures and len(structures) > 1:
        raise ValueError(
            "--structure layer goes alone: its result is another than that of heads and units"
        )
    if structures == ["layer"]:
        _layers(args)
    else:
        _inside(args, structures)


def _layers(args: Namespace) -> None:
    subject, batches = load(args)
    from fairseq_layerdrop.evaluation.layer_importance import layer_importance
    from fairseq_layerdrop.reporting.origin import origin
    from fairseq_layerdrop.reporting.rows import RowFile

    with RowFile(args.output, origin(args.command)) as file:
        for measure in args.measure or MEASURES:
            rows = layer_importance(subject, batches, measure, progress=bar(measure))
            file.add(row for row in rows if not file.find(row["signature"]))
            for row in rows:
                print(json.dumps(row) if args.json else _layer_text(row))


def _layer_text(row: dict[str, Any]) -> str:
    unit = "of a half turn" if row["measure"] == "angular" else "bits a token"
    error = "" if row["error"] is None else f" ± {row['error']:.4f}"
    value = f"{row['value']:+.4f}{error} {unit}, {row['normalised']:.0%}"
    return f"{row['measure']:<14} {row['stack']} {row['layer']:>2}: {value}"


def _inside(args: Namespace, structures: list[str]) -> None:
    if args.batches < 1:
        raise ValueError(f"--batches must be at least 1, got {args.batches}")
    _check_output(Path(args.output), args.path)
    subject, batches = load(args)
    from fairseq_layerdrop.evaluation.head_importance import gradient_scores
    from fairseq_layerdrop.reporting.files import write_files

    samples = batches.share(min(1.0, args.batches / len(batches)))
    scores = gradient_scores(
        subject.loaded, samples, structures=structures, progress=bar("batches")
    )
    facts = {
        "checkpoint": subject.digest,
        "data": args.data,
        "subset": args.gen_subset,
        "sentences": sum(len(sample["id"]) for sample in samples),
        "measure": "gradient x weight",
        "structures": structures,
        "scores": scores,
    }
    write_files(
        Path(args.output).parent,
        {Path(args.output).name: f"{json.dumps(facts, indent=1)}\n".encode()},
    )
    if args.json:
        print(json.dumps(facts))
    else:
        _print(scores, args.output, facts["sentences"])


def _check_output(output: Path, source: str) -> None:
    """Scores may be measured again; nothing else is replaced."""
    from fairseq_layerdrop import checkpoint

    checkpoint.check_target(output, source=source, force=True)
    try:
        found = json.loads(output.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        found = {}
    if not isinstance(found, dict) or not {"scores", "structures"} <= found.keys():
        raise ValueError(f"{output} is there, and not of importance; name another file")


def _print(scores: dict[str, list[float]], output: str, sentences: int) -> None:
    for path, values in scores.items():
        least = min(range(len(values)), key=values.__getitem__)
        print(f"{path}: {len(values)} from {min(values):.2g} (number {least}) to {max(values):.2g}")
    print(f"measured on {sentences:,} sentences; written: {output}")
