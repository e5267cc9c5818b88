# SPDX-License-Identifier: MIT
"""One point of a healed family: cut, compensated, trained, written as a stock file, scored."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop import __version__, checkpoint
from fairseq_layerdrop.operations._compensate import Calibrate, compensate
from fairseq_layerdrop.operations._family import Family, name_of
from fairseq_layerdrop.operations._plugins import user_dir_for_training
from fairseq_layerdrop.operations._training import check_same, train
from fairseq_layerdrop.operations.prune import save_pruned
from fairseq_layerdrop.pruning.inspection import parameter_sizes
from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.loading import Loaded


@dataclass(frozen=True)
class Start:
    """The model that a point is cut from."""

    file: Path
    plan: PruningPlan
    """Its layers, numbered as in the whole model."""

    def inner(self, plan: PruningPlan) -> PruningPlan:
        """A plan of the whole model's layers as one of this model's."""
        selections = {}
        for stack, kept in plan.kept.items():
            mine = self.plan.kept[stack]
            indices = tuple(mine.index(layer) for layer in kept)
            selections[stack] = LayerSelection(len(mine), indices)
        return PruningPlan.of(selections)


def heal_point(family: Family, plan: PruningPlan, start: Start) -> dict[str, Any]:
    """Heal one point, or find it healed.

    Returns:
        Its entry in the manifest.

    Raises:
        ValueError: if the training fails.
    """
    if found := family.entry(plan):
        return found
    file, folder = family.file(plan), family.training(plan)
    folder.mkdir(parents=True, exist_ok=True)
    check_same(folder / "point.json", {**family.wanted(plan), "cut_from": start.file.name})
    cut = folder / "start.pt"
    if not cut.exists():
        on = Calibrate(family.data, user_dir=family.user_dir)
        _cut(start.file, start.inner(plan), cut, on)
    seconds = _train(family, plan, cut)
    _write_stock(folder / "checkpoint_best.pt", checkpoint.open_source(cut), file, family)
    facts = _facts(family, plan, start, file=file, cut=cut)
    return family.write_entry(plan, {**facts, "seconds": round(seconds, 1)})


def _train(family: Family, plan: PruningPlan, cut: Path) -> float:
    """Train what was cut in a process of its own.

    Returns:
        The seconds that it took.
    """
    arguments = family.recipe.arguments(
        checkpoint.open_source(cut),
        plan,
        whole=family.whole,
        data=family.data,
        updates=family.updates,
        user_dir=user_dir_for_training(cut.parent.parent, family.user_dir),
    )

    def progress(done: int) -> None:
        family.progress(name_of(plan), done, family.updates)

    return train(cut.parent, arguments, progress=progress)


def _facts(
    family: Family, plan: PruningPlan, start: Start, *, file: Path, cut: Path
) -> dict[str, Any]:
    """What the manifest says of a healed file, its losses before and after among it."""
    loss = partial(loss_of, data=family.data, subset=family.subset, user_dir=family.user_dir)
    return {
        "file": file.name,
        "plan": str(plan),
        "cut_from": start.file.name,
        "parameters": sum(parameter_sizes(checkpoint.open_source(file).weights).values()),
        "bytes": file.stat().st_size,
        "digest": checkpoint.digest(file),
        "updates": family.updates,
        "loss": {
            "cut": loss(start.file, plan=start.inner(plan)),
            "compensated": loss(cut),
            "healed": loss(file),
        },
    }


def _cut(source: Path, plan: PruningPlan, target: Path, on: Calibrate) -> None:
    full, about = compensate(checkpoint.open_source(source), plan, on)
    small = prune_checkpoint(full, plan, version=__version__, compensated=about)
    save_pruned(small, target, full, plan, user_dir=on.user_dir)


def _write_stock(best: Path, cut: Source, file: Path, family: Family) -> None:
    """The best checkpoint as a stock file that says where it comes from."""
    trained = checkpoint.open_source(best)
    everything = PruningPlan.everything(trained.depths)
    small = prune_checkpoint(trained, everything, version=__version__)
    earlier = cut.checkpoint["extra_state"]["layerdrop"]
    (step,) = small["extra_state"]["layerdrop"]["steps"]
    step["healed"] = {"updates": family.updates, "recipe": family.recipe.to_json()}
    if family.recipe.teacher:
        step["healed"]["teacher"] = family.whole.digest
    small["extra_state"]["layerdrop"] = {**earlier, "steps": [*earlier["steps"], step]}
    save_pruned(small, file, trained, everything, user_dir=family.user_dir, force=True)


def loss_of(
    file: str | Path,
    data: str,
    subset: str,
    plan: PruningPlan | None = None,
    *,
    user_dir: str | None = None,
) -> float:
    """Bits a token of a checkpoint, whole or restricted to a plan."""
    from fairseq_layerdrop.evaluation.loading import load

    return loss_of_loaded(load(str(file), data, user_dir=user_dir), subset, plan)


def loss_of_loaded(loaded: "Loaded", subset: str, plan: PruningPlan | None = None) -> float:
    """The same of a model that is loaded."""
    from fairseq_layerdrop.evaluation.loading import Batches
    from fairseq_layerdrop.evaluation.losses import score_losses
    from fairseq_layerdrop.modules.subnetwork import depths

    plan = plan or PruningPlan.everything(depths(loaded.model))
    (losses,) = score_losses(loaded, Batches(loaded, subset).samples, [plan.kept])
    return losses.loss
