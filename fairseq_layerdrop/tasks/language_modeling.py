# SPDX-License-Identifier: MIT
"""``layerdrop_language_modeling``: fairseq's language modelling with depth on demand."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask

from fairseq_layerdrop.tasks._depth import DepthConfig, DepthOnDemand


@dataclass
class LayerDropLanguageModelingConfig(DepthConfig, LanguageModelingConfig):
    """The fields of fairseq's language modelling and of depth on demand."""


@register_task("layerdrop_language_modeling", dataclass=LayerDropLanguageModelingConfig)
class LayerDropLanguageModelingTask(DepthOnDemand, LanguageModelingTask):
    """Language modelling with ``--decoder-keep`` and ``--valid-plans``."""
