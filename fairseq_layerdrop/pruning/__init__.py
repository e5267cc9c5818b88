# SPDX-License-Identifier: MIT
"""What is kept: plans, strategies, and the surgery on a checkpoint's dictionary. No fairseq, no
files.
"""

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan
from fairseq_layerdrop.pruning.strategies import STRATEGIES, every_other, training_rate

__all__ = ["STRATEGIES", "LayerSelection", "PruningPlan", "every_other", "training_rate"]
