# SPDX-License-Identifier: MIT
"""What ``prune`` does below the layer: heads, FFN units, sub-layers."""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairseq_layerdrop.pruning.plan import PruningPlan
    from fairseq_layerdrop.pruning.widths import Widths


@dataclass(frozen=True)
class Inside:
    """The choice, what it does to a model's weights, and what there is to say of it."""

    widths: "Widths | None" = None
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = dict
    facts: list[str] = field(default_factory=list)


def choose_inside(
    args: Namespace, full: dict[str, Any], plan: "PruningPlan", source: str
) -> Inside:
    """Choose what stays inside the layers that a plan keeps.

    Raises:
        ValueError: naming the flag that does not fit.
    """
    if not (args.heads_keep or args.ffn_keep or args.drop_sublayers):
        if args.importance:
            raise ValueError("--importance goes with --heads-keep or --ffn-keep")
        return Inside()
    from fairseq_layerdrop.pruning import widths
    from fairseq_layerdrop.pruning.config import model_section
    from fairseq_layerdrop.pruning.gates import without_gates
    from fairseq_layerdrop.pruning.shaped import head_dims
    from fairseq_layerdrop.pruning.stacks import locate
    from fairseq_layerdrop.pruning.upgrade import upgrade_state

    dims = head_dims(model_section(full))
    state = without_gates(upgrade_state(full["model"]))
    left = {
        k: t for k, t in state.items() if not (at := locate(k)) or at.layer in plan.kept[at.stack]
    }
    paths = {at.stack: at.path for at in map(locate, left) if at}
    chosen = widths.choose(
        left,
        dims,
        heads=args.heads_keep,
        ffn=args.ffn_keep,
        without=widths.parse_sublayers(args.drop_sublayers, paths)
        if args.drop_sublayers
        else frozenset(),
        scores=_scores(args.importance, source) if args.importance else None,
    )
    before = widths.shapes(left, dims)
    return Inside(
        chosen,
        lambda weights: widths.narrow(weights, dims, chosen),
        list(_facts(args, chosen, before)),
    )


def _scores(file: str, source: str) -> dict[str, list[float]]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "scores" not in found:
        mend = "write it by `importance --structure head --structure ffn`"
        raise ValueError(f"--importance: {file} holds no scores of heads and units; {mend}")
    if found.get("checkpoint") != source:
        raise ValueError(
            f"--importance: {file} must be of this checkpoint, {source}, got "
            f"{found.get('checkpoint')}"
        )
    scores: dict[str, list[float]] = found["scores"]
    return scores


def _facts(args: Namespace, chosen: "Widths", before: dict[str, list[list[int]]]) -> list[str]:
    facts = []
    for name, asked, kept, columns in (
        ("heads", args.heads_keep, chosen.heads, (0, 1)),
        ("FFN units", args.ffn_keep, chosen.units, (2,)),
    ):
        had = sorted(
            {
                layer[c]
                for layers in before.values()
                for layer in layers
                for c in columns
                if layer[c]
            }
        )
        did = sorted({len(indices) for indices in kept.values()})
        if asked:
            facts.append(f"{name}: asked {asked}, kept {_some(did)} of {_some(had)}")
    return facts + (
        [f"sub-layers removed: {', '.join(sorted(chosen.without))}"] if chosen.without else []
    )


def _some(numbers: list[int]) -> str:
    return " or ".join(f"{n:,}" for n in numbers)
