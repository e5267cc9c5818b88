# SPDX-License-Identifier: MIT
"""A checkpoint whose kept layers make up for those that go: opened, compensated in memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.compensation import Compensation

TOKENS = 30_000
"""About this many tokens are enough: those of a thousand sentences and more."""


@dataclass(frozen=True)
class Calibrate:
    """What to compensate on."""

    data: str
    """A data set in fairseq's binary form."""
    subset: str | None = None
    """Its split; without one ``train``, or ``valid`` where there is no ``train``."""
    tokens: int = TOKENS
    """About this many; a quarter of the sentences is held out."""
    device: str = "cpu"
    user_dir: str | None = None
    """The plugin that the model needs in fairseq; its code is run."""

    def check(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            ValueError: naming the argument.
        """
        if self.tokens < 1:
            raise ValueError(f"compensate_tokens= must be at least 1, got {self.tokens}")
        for folder in self.data.split(os.pathsep):
            if not Path(folder).is_dir():
                raise ValueError(f"compensate=: there is no directory {folder}")


def compensate(source: Source, plan: PruningPlan, on: Calibrate) -> tuple[Source, dict[str, Any]]:
    """The source with new weights in layers that a plan keeps, and what these are worth.

    fairseq is imported here.

    Raises:
        ValueError: if the plan keeps everything, the data do not fit the model, or its layers
        cannot be compensated.
    """
    from fairseq_layerdrop.evaluation.calibration import calibration
    from fairseq_layerdrop.evaluation.compensation import Compensator
    from fairseq_layerdrop.evaluation.loading import load

    if plan.is_whole:
        raise ValueError("compensate= is for a plan that removes layers, got one that keeps all")
    loaded = load(source.path, on.data, device=on.device, user_dir=on.user_dir)
    data = calibration(loaded, subset=on.subset, tokens=on.tokens)
    found = Compensator(loaded, data)(plan)
    return with_weights(source, found), {**data.sign(), **found.to_json()}


def with_weights(source: Source, found: "Compensation") -> Source:
    """The source with the new weights, in the file's own precision."""
    new = {
        name: tensor.to(device="cpu", dtype=source.state[name].dtype)
        for name, tensor in found.weights.items()
    }
    return replace(source, state=source.state | new)
