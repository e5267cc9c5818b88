# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop zoo``: a stock checkpoint for each of many plans, measured, re-loaded and
compared.
"""

import json
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fairseq_layerdrop
from fairseq_layerdrop.cli._decoding import add_decoding, make_measures, parse_metrics
from fairseq_layerdrop.cli._evaluation import add_data, bar, load_batches, load_subject
from fairseq_layerdrop.cli._text import join, row_text

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.plan import PruningPlan
    from fairseq_layerdrop.pruning.source import Source

SUMMARY = "write a checkpoint for each of many plans, with a manifest of what each is worth"
EXAMPLE = (
    "fairseq-layerdrop zoo DATA zoo/ --path full.pt "
    '--points "6+6 6+3 3+3" --metrics loss,bleu,latency'
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_data(
        parser,
        output="the folder for the checkpoints, manifest.json and rows.jsonl; made if need be",
    )
    parser.add_argument(
        "--points",
        metavar="PLANS",
        required=True,
        help="plans, separated by blanks; trained: those of --train-plans",
    )
    add_decoding(parser, metrics="loss")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint

    metrics = sorted({*parse_metrics(args), "loss"})
    subject = load_subject(args)
    from fairseq_layerdrop.evaluation.preflight import warnings
    from fairseq_layerdrop.evaluation.sweep import Results, sweep
    from fairseq_layerdrop.evaluation.zoo import check_reloaded, worth
    from fairseq_layerdrop.reporting.files import write_files
    from fairseq_layerdrop.reporting.origin import origin

    plans = subject.plans(args.points)
    batches = load_batches(args, subject)
    folder = Path(args.output)
    folder.mkdir(exist_ok=True)
    results = Results(str(folder / "rows.jsonl"), origin(args.command))
    warnings(subject, batches, plans)
    measures = make_measures(args, subject, batches, metrics)
    rows = sweep(subject, plans, measures, results, progress=bar("measuring"))
    full = checkpoint.open_source(args.path)
    models = []
    for plan, name in bar("writing")(list(zip(plans, _names(plans), strict=True))):
        file = folder / name
        _write(full, plan, file)
        check_reloaded(subject, str(file), args.data, batches, rows[plan])
        models.append({"file": name, **worth(rows[plan], measures), **_facts(args, plan, file)})
    manifest = {
        "source": {"file": args.path, "digest": subject.digest},
        "data": {"folder": args.data, "subset": args.gen_subset, "sentences": batches.sentences},
        "version": fairseq_layerdrop.__version__,
        "models": models,
    }
    write_files(folder, {"manifest.json": f"{json.dumps(manifest, indent=1)}\n".encode()})
    for model in models:
        print(json.dumps(model) if args.json else f"{model['file']}: {row_text(model)}")


def _names(plans: list["PruningPlan"]) -> list[str]:
    """``6+3.pt``; a second plan of the same depths has its layers in the name."""
    depths = ["+".join(str(len(kept)) for kept in plan.kept.values()) for plan in plans]
    return [
        f"{name}.pt" if depths.index(name) == i else f"{name}.{str(plan).replace('/', '_')}.pt"
        for i, (plan, name) in enumerate(zip(plans, depths, strict=True))
    ]


def _write(full: "Source", plan: "PruningPlan", file: Path) -> None:
    """Prune, unless the file is there already, of the same source and plan."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.operations.prune import save_pruned
    from fairseq_layerdrop.pruning.surgery import prune_checkpoint

    small = prune_checkpoint(full, plan, version=fairseq_layerdrop.__version__)
    if file.exists():
        found = checkpoint.load(file)["extra_state"].get("layerdrop")
        if found != small["extra_state"]["layerdrop"]:
            raise ValueError(f"{file} is another model; name another folder, or remove it")
        return
    save_pruned(small, file, full, plan)


def _facts(args: Namespace, plan: "PruningPlan", file: Path) -> dict[str, Any]:
    from fairseq_layerdrop import checkpoint

    flags = [word for stack, kept in plan.kept.items() for word in (f"--{stack}-keep", join(kept))]
    command = shlex.join(["fairseq-layerdrop", "prune", args.path, str(file), *flags])
    return {"bytes": file.stat().st_size, "digest": checkpoint.digest(file), "command": command}
