# SPDX-License-Identifier: MIT
"""What the points of a healed family have in common, and what of them a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_layerdrop.operations._heal_options import HealOptions
from fairseq_layerdrop.operations._manifest import MANIFEST, read_object, write_object
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source

Progress = Callable[[str, int, int], None]
"""Told a point's name, and how many updates are done of how many."""


def name_of(plan: PruningPlan) -> str:
    """``6+3``."""
    return "+".join(str(len(kept)) for kept in plan.kept.values())


@dataclass(frozen=True)
class Family:
    """The whole model, how each point is healed, and the folder that they lie in."""

    whole: Source
    folder: Path
    data: str
    subset: str
    user_dir: str | None
    updates: int
    recipe: HealOptions
    progress: Progress

    def wanted(self, plan: PruningPlan) -> dict[str, Any]:
        """What a point's entry says of how it was made."""
        return {
            "source": self.whole.digest,
            "plan": plan.to_json(),
            "updates": self.updates,
            "recipe": self.recipe.to_json(),
            "subset": self.subset,
        }

    def file(self, plan: PruningPlan) -> Path:
        """The healed checkpoint."""
        return self.folder / f"{name_of(plan)}.pt"

    def training(self, plan: PruningPlan) -> Path:
        """The folder of its training."""
        return self.folder / "training" / name_of(plan)

    def entry(self, plan: PruningPlan) -> dict[str, Any] | None:
        """What the manifest says of a point, once it is healed."""
        file = self.file(plan)
        return _entry(file) if file.exists() else None

    def write_entry(self, plan: PruningPlan, facts: dict[str, Any]) -> dict[str, Any]:
        """Write it: the point is healed.

        Returns:
            The entry.
        """
        entry = {**facts, "wanted": self.wanted(plan)}
        write_object(self.file(plan).with_suffix(".json"), entry)
        return entry

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write what all are worth."""
        write_object(self.folder / MANIFEST, manifest)

    def with_healed(self, plans: list[PruningPlan]) -> list[PruningPlan]:
        """The plans, and those of the points that are healed already.

        Raises:
            ValueError: if a point was healed or scored in another way, or a file of something else
            lies where one is to be written.
        """
        self._check_free(plans)
        points = {name_of(plan): plan for plan in plans}
        for file in sorted(self.folder.glob("*.pt")):
            if entry := _entry(file):
                found = entry["wanted"]
                plan = points.setdefault(file.stem, PruningPlan.from_json(found["plan"]))
                if found != self.wanted(plan):
                    raise ValueError(
                        f"{file} was healed or scored in another way; remove it, or name another "
                        "OUT"
                    )
        return list(points.values())

    def _check_free(self, plans: list[PruningPlan]) -> None:
        """Refuse what nothing here says to be healed: a zoo's files have the same names."""
        others = [
            self.file(plan)
            for plan in plans
            if self.file(plan).exists() and not (self.entry(plan) or self.training(plan).exists())
        ]
        manifest = self.folder / MANIFEST
        if manifest.exists() and "recipe" not in read_object(manifest):
            others.append(manifest)
        if others:
            raise ValueError(f"{', '.join(map(str, others))}: not of heal; name another OUT")


def _entry(file: Path) -> dict[str, Any] | None:
    """What lies beside a healed file; nothing beside another's."""
    entry = read_object(file.with_suffix(".json"))
    return entry if "wanted" in entry else None
