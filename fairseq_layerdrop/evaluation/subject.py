# SPDX-License-Identifier: MIT
"""What is evaluated: a checkpoint with a name, and the facts of each row about it."""

import platform
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import torch

from fairseq_layerdrop.evaluation.loading import Batches, Loaded
from fairseq_layerdrop.modules.subnetwork import depths
from fairseq_layerdrop.pruning.inspection import parameter_sizes
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import locate
from fairseq_layerdrop.pruning.trained import parse_points
from fairseq_layerdrop.pruning.upgrade import upgrade_state

PACKAGES = ("fairseq-fixed", "torch", "sacrebleu")


class Subject:
    """A loaded checkpoint.

    Args:
        loaded: the model and its task.
        digest: of the checkpoint's file.
        curve: the model's name in tables and figures.
        rates: the LayerDrop rates of its training, by stack, where its file says so.
        trained: the plans that its training ran in its steps, where its file says so.
        seed: of its training, where its file says so; models that differ only in it are one curve.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        digest: str,
        curve: str,
        rates: Mapping[str, Any],
        trained: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        self.loaded = loaded
        self.digest = digest
        self.curve = curve
        self.rates = dict(rates)
        self.trained = list(trained)
        self.seed = seed
        self.depths = depths(loaded.model)
        self.whole = PruningPlan.everything(self.depths)

    def describe(self, plan: PruningPlan) -> dict[str, Any]:
        """A plan's facts in a row, whatever is measured."""
        counts = {
            f"{stack}_layers": len(selection.kept) for stack, selection in plan.selections.items()
        }
        seed = {} if self.seed is None else {"seed": self.seed}
        return {
            "curve": self.curve,
            **seed,
            "plan": str(plan),
            **counts,
            "parameters": self.parameters(plan),
        }

    def plans(self, text: str) -> list[PruningPlan]:
        """The plans of a text, separated by blanks; ``trained`` stands for those of the training.

        Raises:
            ValueError: if one does not fit, or there is none.
        """
        return parse_points(text, self.depths, self.trained)

    def parameters(self, plan: PruningPlan) -> int:
        """How many parameters the sub-network has, as ``inspect`` counts them."""
        fixed, layers = self._sizes
        return fixed + sum(layers[stack][i] for stack, kept in plan.kept.items() for i in kept)

    def bytes(self, plan: PruningPlan) -> int:
        """How much memory its weights take."""
        size: int = next(iter(self.loaded.model.parameters())).element_size()
        return self.parameters(plan) * size

    @cached_property
    def _sizes(self) -> tuple[int, dict[str, list[int]]]:
        """The parameters outside the layers, and of each layer."""
        sizes = parameter_sizes(upgrade_state(self.loaded.model.state_dict()))
        layers = {stack: [0] * depth for stack, depth in self.depths.items()}
        for key, size in sizes.items():
            if place := locate(key):
                layers[place.stack][place.layer] += size
        return sum(sizes.values()) - sum(map(sum, layers.values())), layers

    def sign(self, plan: PruningPlan, batches: Batches, **more: Any) -> dict[str, Any]:
        """Everything that the numbers of a row depend on."""
        return {
            "checkpoint": self.digest,
            "plan": str(plan),
            "subset": batches.subset,
            "half": batches.half,
            "data": batches.digest,
            **more,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "versions": _versions(),
        }

    @property
    def device(self) -> str:
        """The name of the device."""
        on_gpu = self.loaded.device.type == "cuda"
        return torch.cuda.get_device_name() if on_gpu else platform.machine()


@cache
def _versions() -> dict[str, str]:
    """The versions that numbers depend on; looking them up takes as long as a small forward."""
    return {name: version(name) for name in PACKAGES}
