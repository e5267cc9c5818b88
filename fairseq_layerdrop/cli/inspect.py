# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop inspect``: what is in a checkpoint."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fairseq_layerdrop.cli._text import join

SUMMARY = "show what is in a checkpoint: stacks, parameters, LayerDrop rates, provenance"
EXAMPLE = "fairseq-layerdrop inspect checkpoint_best.pt"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt)")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop import checkpoint
    from fairseq_layerdrop.pruning.inspection import describe, not_finite

    source = checkpoint.open_source(args.checkpoint)
    facts = {**describe(source), "not_finite": not_finite(source.checkpoint["model"])}
    _add_learned_rates(facts["stacks"], source.state)
    path = Path(args.checkpoint)
    facts = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": checkpoint.file_format(path),
        **facts,
    }
    facts["digest"] = source.digest
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)


def _add_learned_rates(stacks: dict[str, Any], state: dict[str, Any]) -> None:
    """Each layer's rate at the end of a training with ``--layerdrop-schedule learned``."""
    from fairseq_layerdrop.modules.learned import rates_of
    from fairseq_layerdrop.pruning.learned_rates import drop_scores

    for stack, scores in drop_scores(
        state, {stack: about["depth"] for stack, about in stacks.items()}
    ).items():
        stacks[stack]["learned_rates"] = rates_of(scores, target=float(stacks[stack]["layerdrop"]))


def _print_facts(facts: dict[str, Any]) -> None:
    parameters = facts["parameters"]
    rows = [
        (
            "architecture",
            f"{facts['architecture']}, task {facts['task']}, {facts['updates']} updates",
        )
    ]
    for stack, about in facts["stacks"].items():
        sizes = " or ".join(f"{n:,}" for n in sorted(set(about["parameters_per_layer"])))
        rows.append(
            (
                stack,
                f"{about['depth']} layers of {sizes} parameters; LayerDrop in training "
                f"{about['layerdrop']}",
            )
        )
        if "learned_rates" in about:
            rows.append(
                ("", f"rates learned: {' '.join(f'{rate:.2f}' for rate in about['learned_rates'])}")
            )
        if about["shared"]:
            rows.append(("", f"that share their weights: {' | '.join(map(join, about['shared']))}"))
        if about["layers_of_the_original"] is not None:
            rows.append(("", f"layers {join(about['layers_of_the_original'])} of the original"))
    if facts["trained_plans"]:
        rows.append(("trained plans", " ".join(facts["trained_plans"])))
    for path, length in facts["other_lists"].items():
        rows.append(("", f"{path}: {length} layers, no stack (prune leaves them whole)"))
    rows.append(("parameters", f"{parameters['total']:,}"))
    rows.append(
        (
            "",
            f"{parameters['layers']:,} in layers, {parameters['embeddings']:,} in embeddings and "
            "output",
        )
    )
    extras = [
        name
        for name, there in (("optimizer state", facts["optimizer_state"]), ("EMA", facts["ema"]))
        if there
    ]
    rows.append(
        (
            "file",
            f"{facts['bytes']:,} bytes, {facts['format']}, {', '.join(facts['dtypes'] + extras)}",
        )
    )
    if facts["not_finite"]:
        rows.append(("NaN or Inf", f"in {', '.join(facts['not_finite'])}"))
    if facts["heads"]:
        rows.append(("heads", ", ".join(facts["heads"])))
    for step in (facts["provenance"] or {}).get("steps", []):
        rows.append(("pruned", f"from {step['source']} by fairseq-layerdrop {step['version']}"))
    for label, text in [*rows, ("digest", facts["digest"])]:
        print(f"{label:<13} {text}".rstrip())
