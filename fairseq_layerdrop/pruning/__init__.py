# SPDX-License-Identifier: MIT
"""What is kept: plans, strategies, and surgery on checkpoint dictionaries. No files."""

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.strategies import STRATEGIES

__all__ = ["STRATEGIES", "LayerSelection", "PruningPlan"]
