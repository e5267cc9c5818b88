# SPDX-License-Identifier: MIT
"""``layerdrop_translation``: fairseq's translation with depth on demand."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_layerdrop.tasks._depth import DepthConfig, DepthOnDemand


@dataclass
class LayerDropTranslationConfig(DepthConfig, TranslationConfig):
    """The fields of fairseq's translation and of depth on demand."""


@register_task("layerdrop_translation", dataclass=LayerDropTranslationConfig)
class LayerDropTranslationTask(DepthOnDemand, TranslationTask):
    """Translation with ``--encoder-keep``, ``--decoder-keep`` and ``--valid-plans``."""
