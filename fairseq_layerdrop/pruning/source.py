# SPDX-License-Identifier: MIT
"""An opened checkpoint, brought into today's form once for all operations."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fairseq_layerdrop.pruning.config import model_section
from fairseq_layerdrop.pruning.learned_rates import without_gates
from fairseq_layerdrop.pruning.stacks import stack_depths
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint, upgrade_state


@dataclass(frozen=True)
class Source:
    """A full model's checkpoint, from which smaller ones are cut; it is not changed."""

    path: str
    """The file; empty for a checkpoint that comes from none."""
    digest: str
    """What identifies the file's content, for the provenance."""
    checkpoint: dict[str, Any]
    """Options in ``cfg``, tensors that were one in the model one again; ``model`` has the keys of
    the file.
    """
    state: dict[str, Tensor]
    """The model's state dict in today's keys."""
    options: dict[str, Any]
    """The model's options, flat."""
    depths: dict[str, int]
    """The depth of each stack, encoder first."""

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], *, path: str = "", digest: str = "") -> "Source":
        """Open a checkpoint's dictionary, of whatever age.

        Raises:
            ValueError: if it holds no layers, or no options to build a model from.
        """
        upgraded = upgrade_checkpoint(checkpoint)
        state = upgrade_state(upgraded["model"])
        depths = stack_depths(state)
        return cls(path, digest, upgraded, state, model_section(upgraded), depths)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The state dict without what belongs to learned rates, which stays in no pruned file."""
        return without_gates(self.state)
