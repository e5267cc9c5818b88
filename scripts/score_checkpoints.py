# SPDX-License-Identifier: MIT
"""Score checkpoints with stock fairseq-generate and sacreBLEU; rows that are there are kept.

    python scripts/score_checkpoints.py DATA --reference TEXT --rows ROWS.jsonl --curve NAME CKPT...
    [-- FLAGS]

What stands after `--` goes to fairseq-generate.
"""

import argparse
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generation import run_generate
from rich.console import Console
from rich.progress import track

from fairseq_layerdrop import checkpoint
from fairseq_layerdrop.evaluation.texts import score_texts
from fairseq_layerdrop.pruning.inspection import describe
from fairseq_layerdrop.reporting.origin import origin
from fairseq_layerdrop.reporting.rows import RowFile


def main() -> None:
    """Score every checkpoint that has no row yet."""
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="binarised data, as for fairseq-generate")
    parser.add_argument("checkpoints", metavar="CKPT", nargs="+")
    parser.add_argument(
        "--reference", type=Path, required=True, help="the subset's target side as plain text"
    )
    parser.add_argument("--rows", type=Path, required=True, help="JSON Lines; rows are added")
    parser.add_argument("--curve", required=True, help="the model's name in tables and figures")
    args = parser.parse_args(argv[:cut])
    references = args.reference.read_text(encoding="utf-8").splitlines()
    rows = RowFile(args.rows)
    for path in track(args.checkpoints, f"scoring {args.curve}", console=Console(stderr=True)):
        command = [
            args.data,
            "--path",
            path,
            "--required-batch-size-multiple",
            "1",
            *argv[cut + 1 :],
        ]
        signature = sign(path, command, args.reference)
        if not rows.find(signature):
            rows.add([make_row(path, command, references, signature, args.curve)])


def make_row(
    path: str, command: list[str], references: list[str], signature: dict[str, Any], curve: str
) -> dict[str, Any]:
    """Generate, score, and put everything that is known into one row."""
    generation = run_generate(command)
    scores = score_texts(generation.hypotheses, references, ["bleu", "chrf"])
    facts = describe(checkpoint.open_source(path))
    steps = (facts["provenance"] or {}).get("steps", [])
    kept = {
        stack: about["layers_of_the_original"] or "all" for stack, about in facts["stacks"].items()
    }
    return {
        "curve": curve,
        "plan": "/".join(
            ",".join(map(str, layers)) if layers != "all" else layers for layers in kept.values()
        ),
        **{f"{stack}_layers": about["depth"] for stack, about in facts["stacks"].items()},
        "parameters": facts["parameters"]["total"],
        **scores,
        "sentences": len(references),
        "sentences_per_second": generation.sentences_per_second,
        "tokens_per_second": generation.tokens_per_second,
        "source": steps[0]["source"] if steps else signature["checkpoint"],
        **origin(["fairseq-generate", *command]),
        "signature": signature,
    }


def sign(path: str, command: list[str], reference: Path) -> dict[str, Any]:
    """Everything that a row's numbers depend on."""
    return {
        "checkpoint": checkpoint.digest(path),
        "flags": [word for word in command if word != path],
        "reference": reference.name,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "device": platform.machine(),
        "versions": {name: version(name) for name in ("fairseq-fixed", "torch", "sacrebleu")},
    }


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"score_checkpoints: {error}", file=sys.stderr)
        sys.exit(2)
