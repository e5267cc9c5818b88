# SPDX-License-Identifier: MIT
"""From one checkpoint to a family of repaired smaller ones.

Each is cut, compensated, and fine-tuned with the whole model as its teacher.
"""

import os
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__, checkpoint
from fairseq_layerdrop.operations._compensate import Calibrate
from fairseq_layerdrop.operations._family import Family, Progress, name_of
from fairseq_layerdrop.operations._heal_options import HealOptions
from fairseq_layerdrop.operations._point import Start, heal_point, loss_of_loaded
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.trained import parse_points, trained_plans


def heal(
    source: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    points: str,
    recipe: HealOptions | None = None,
    *,
    subset: str = "valid",
    user_dir: str | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Write a healed stock checkpoint for each point, and a manifest of what each is worth.

    What is there already is kept, and is in the manifest: a run that was killed goes on, and
    points can be added later. ``fairseq-train`` runs in processes of its own, in ``OUT/training``.

    >>> heal("full.pt", "DATA", "healed", "6+3 6+1")  # doctest: +SKIP

    Args:
        source: the whole model; it is not changed.
        data: the data set that the model was trained on, in fairseq's binary form.
        output: a folder for the checkpoints, made if need be.
        points: plans, separated by blanks, e.g. ``"6+3 6+1"``.
        recipe: how each is healed.
        subset: of the data, on which all are scored.
        user_dir: the plugin that the model, its task or its criterion is of; its code is run.
        progress: told of each training.

    Returns:
        The manifest: ``source``, ``data``, ``recipe`` and ``models``, largest first, each with its
        losses in bits a token: ``cut``, ``compensated`` and ``healed``.

    Raises:
        CheckpointError: if the whole model cannot be read, or another process is in the folder.
        ValueError: if something does not fit, or a training fails.
    """
    recipe, folder = recipe or HealOptions(), Path(output)
    whole = checkpoint.open_source(source)
    plans, updates = _plans(whole, points), recipe.updates(whole)
    Calibrate(str(data)).check()
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"there is no directory {folder.parent} for the output; make it first")
    family = Family(whole, folder, str(data), subset, user_dir, updates, recipe, progress)
    plans = family.with_healed(plans)
    loss = _loss(whole, str(data), subset, recipe.trained_on(whole), user_dir)
    recipe.check(whole)
    folder.mkdir(exist_ok=True)
    with checkpoint.alone_in(folder, writing=folder):  # two would train on the same checkpoints
        manifest = {
            "source": {"file": str(source), "digest": whole.digest, "loss": loss},
            "data": {"folder": str(data), "subset": subset},
            "recipe": {**recipe.to_json(), "updates": updates},
            "version": __version__,
            "models": _heal_points(family, plans),
        }
        family.write_manifest(manifest)
    return manifest


def _loss(whole: Source, data: str, subset: str, trained_on: str, user_dir: str | None) -> float:
    """The whole model's; data without the split to train on are refused before it."""
    from fairseq_layerdrop.evaluation.loading import load, load_subset

    loaded = load(whole.path, data, user_dir=user_dir)
    load_subset(loaded, [trained_on], purpose="train on (behind --: --train-subset)")
    return loss_of_loaded(loaded, subset)


def _heal_points(family: Family, plans: list[PruningPlan]) -> list[dict[str, Any]]:
    """The entries of the manifest, largest first."""
    starts = [Start(Path(family.whole.path), PruningPlan.everything(family.whole.depths))]
    models = []
    for plan in sorted(plans, key=_layers, reverse=True):
        start = _smallest(plan, starts) if family.recipe.chained else starts[0]
        models.append(heal_point(family, plan, start))
        starts.append(Start(family.folder / models[-1]["file"], plan))
    return models


def _plans(whole: Source, points: str) -> list[PruningPlan]:
    """The points that were asked for."""
    plans = parse_points(points, whole.depths, trained_plans(whole.checkpoint))
    names = [name_of(plan) for plan in plans]
    if any(plan.is_whole for plan in plans):
        raise ValueError("points= are plans that remove layers, got one that keeps all")
    if len(set(names)) < len(names):
        raise ValueError(f"points= must differ in their depths, got {', '.join(names)}")
    return plans


def _layers(plan: PruningPlan) -> int:
    return sum(map(len, plan.kept.values()))


def _smallest(plan: PruningPlan, starts: list[Start]) -> Start:
    """The smallest model that has all the layers of a plan."""
    holding = [
        start
        for start in starts
        if all(set(kept) <= set(start.plan.kept[stack]) for stack, kept in plan.kept.items())
    ]
    return min(holding, key=lambda start: _layers(start.plan))
