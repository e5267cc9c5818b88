# SPDX-License-Identifier: MIT
"""``layerdrop_sentence_prediction``: fairseq's sentence prediction (GLUE) with depth on demand."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask

from fairseq_layerdrop.tasks._depth import DepthConfig, DepthOnDemand


@dataclass
class LayerDropSentencePredictionConfig(DepthConfig, SentencePredictionConfig):
    """The fields of fairseq's sentence prediction and of depth on demand."""


@register_task("layerdrop_sentence_prediction", dataclass=LayerDropSentencePredictionConfig)
class LayerDropSentencePredictionTask(DepthOnDemand, SentencePredictionTask):
    """Sentence prediction; ``--encoder-keep`` in evaluation, ``--valid-plans`` in training."""
