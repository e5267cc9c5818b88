# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop inspect``: what is in a checkpoint."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
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

    depths = {stack: facts["depth"] for stack, facts in stacks.items()}
    for stack, scores in drop_scores(state, depths).items():
        stacks[stack]["learned_rates"] = rates_of(scores, target=float(stacks[stack]["layerdrop"]))


def _print_facts(facts: dict[str, Any]) -> None:
    about = f"{facts['architecture']}, task {facts['task']}, {facts['updates']} updates"
    rows = [("architecture", about)]
    for stack, stack_facts in facts["stacks"].items():
        rows += _stack_rows(stack, stack_facts)
    rows += _size_rows(facts)
    rows += _origin_rows(facts)
    for label, text in rows:
        print(f"{label:<13} {text}".rstrip())


def _stack_rows(stack: str, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    sizes = " or ".join(f"{n:,}" for n in sorted(set(facts["parameters_per_layer"])))
    layers = f"{facts['depth']} layers of {sizes} parameters"
    yield stack, f"{layers}; LayerDrop in training {facts['layerdrop']}"
    if "learned_rates" in facts:
        yield "", f"rates learned: {' '.join(f'{rate:.2f}' for rate in facts['learned_rates'])}"
    if facts["shared"]:
        yield "", f"that share their weights: {' | '.join(map(join, facts['shared']))}"
    if facts["layers_of_the_original"] is not None:
        yield "", f"layers {join(facts['layers_of_the_original'])} of the original"


def _size_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Plans, parameters, and what else the file holds."""
    if facts["trained_plans"]:
        yield "trained plans", " ".join(facts["trained_plans"])
    for path, length in facts["other_lists"].items():
        yield "", f"{path}: {length} layers, no stack (prune leaves them whole)"
    sizes = facts["parameters"]
    yield "parameters", f"{sizes['total']:,}"
    yield "", f"{sizes['layers']:,} in layers, {sizes['embeddings']:,} in embeddings and output"
    contents = list(facts["dtypes"])
    if facts["optimizer_state"]:
        contents.append("optimizer state")
    if facts["ema"]:
        contents.append("EMA")
    yield "file", f"{facts['bytes']:,} bytes, {facts['format']}, {', '.join(contents)}"
    if facts["not_finite"]:
        yield "NaN or Inf", f"in {', '.join(facts['not_finite'])}"
    if facts["heads"]:
        yield "heads", ", ".join(facts["heads"])


def _origin_rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for step in (facts["provenance"] or {}).get("steps", []):
        yield "pruned", f"from {step['source']} by fairseq-layerdrop {step['version']}"
    yield "digest", facts["digest"]
