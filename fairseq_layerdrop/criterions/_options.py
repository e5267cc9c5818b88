# SPDX-License-Identifier: MIT
"""The options of ``layerdrop_distill``, and their ranges."""

import math
from dataclasses import dataclass, field
from typing import Optional

from fairseq.criterions.adaptive_loss import AdaptiveLossConfig
from fairseq.criterions.cross_entropy import CrossEntropyCriterionConfig
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.masked_lm import MaskedLmConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import ChoiceEnum


@dataclass
class LayerDropDistillConfig(
    LabelSmoothedCrossEntropyCriterionConfig,
    CrossEntropyCriterionConfig,
    AdaptiveLossConfig,
    MaskedLmConfig,
    SentencePredictionConfig,
):
    """The fields of self-distillation, and of the criterions that it can train a task with."""

    distill_criterion: ChoiceEnum(  # type: ignore[valid-type]
        [
            "label_smoothed_cross_entropy",
            "cross_entropy",
            "adaptive_loss",
            "masked_lm",
            "sentence_prediction",
        ]
    ) = field(
        default="label_smoothed_cross_entropy",
        metadata={
            "help": "the criterion that trains the task, by its own flags beside these "
            "(default: label_smoothed_cross_entropy)"
        },
    )
    distill_weight: float = field(
        default=0.5,
        metadata={
            "help": "weight, at least 0, of the distillation loss, which is added to the task's; "
            "0: off (default: 0.5)"
        },
    )
    distill_temperature: float = field(
        default=1.0,
        metadata={
            "help": "temperature above 0 of both distributions; higher shows more of the rare "
            "(default: 1)"
        },
    )
    distill_teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "a checkpoint of the same task and dictionaries that teaches instead of the "
            "model's own full path: the model that this one was cut from"
        },
    )
    distill_hidden: float = field(
        default=0.0,
        metadata={
            "help": "weight, at least 0, of the distance between the states after the layers and "
            "those of --distill-teacher; 0: off (default: 0)"
        },
    )
    distill_plan: Optional[str] = field(
        default=None,
        metadata={
            "help": "for --distill-hidden, what was kept of the teacher, e.g. all/0,2,4 (default: "
            "layers evenly spread)"
        },
    )


def check(cfg):
    """Refuse what is out of range.

    Raises:
        ValueError: naming the option.
    """
    if not 0 <= cfg.distill_weight < math.inf:
        raise ValueError(f"--distill-weight must be at least 0, got {cfg.distill_weight}")
    if not 0 < cfg.distill_temperature < math.inf:
        raise ValueError(f"--distill-temperature must be above 0, got {cfg.distill_temperature}")
    if cfg.distill_criterion == "sentence_prediction" and cfg.regression_target:
        raise ValueError(
            "distillation needs classes, and --regression-target has none; leave one of them out"
        )
    if not 0 <= (getattr(cfg, "distill_hidden", None) or 0) < math.inf:
        raise ValueError(f"--distill-hidden must be at least 0, got {cfg.distill_hidden}")
    if getattr(cfg, "distill_hidden", None) and not cfg.distill_teacher:
        raise ValueError(
            "--distill-hidden needs --distill-teacher: a model whose states are taught"
        )
