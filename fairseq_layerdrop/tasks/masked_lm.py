# SPDX-License-Identifier: MIT
"""``layerdrop_masked_lm``: fairseq's masked language modelling with depth on demand."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.masked_lm import MaskedLMConfig, MaskedLMTask

from fairseq_layerdrop.tasks._depth import DepthConfig, DepthOnDemand


@dataclass
class LayerDropMaskedLMConfig(DepthConfig, MaskedLMConfig):
    """The fields of fairseq's masked language modelling and of depth on demand."""


@register_task("layerdrop_masked_lm", dataclass=LayerDropMaskedLMConfig)
class LayerDropMaskedLMTask(DepthOnDemand, MaskedLMTask):
    """Masked language modelling with ``--encoder-keep`` and ``--valid-plans``."""
