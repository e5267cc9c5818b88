# SPDX-License-Identifier: MIT
"""Whether a model of transformers computes what the fairseq model computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""How far logits may be apart, in single precision."""

_AS_ROUNDING = 4
"""Or this often what fairseq's own logits of one sentence differ by, alone and in a batch: in large
models that is more.
"""

Logits = Callable[[Sequence[Any]], list[Tensor]]
"""The logits of each sentence or sound of a batch, ``T x V``, those of padding left out."""


@dataclass(frozen=True)
class Agreement:
    """What was compared and how far the two models are apart.

    Attributes:
        sentences: how many were compared, in one padded batch.
        logits: the largest difference of two logits.
        rounding: the same between fairseq and fairseq, a sentence alone and in the batch.
        generated: of how many sentences the greedy continuation is equal.
    """

    sentences: int
    logits: float
    rounding: float
    generated: int = 0


@torch.no_grad()
def compare_logits(fairseq: Logits, exported: Logits, sentences: Sequence[Any]) -> Agreement:
    """Compare the two models on a padded batch.

    Raises:
        ValueError: if they differ by more than single precision explains.
    """
    expected, found = fairseq(sentences), exported(sentences)
    alone = [fairseq([sentence])[0] for sentence in sentences]
    rounding = _largest_difference(expected, alone)
    difference = _largest_difference(expected, found)
    # Written so that NaN does not pass.
    if not difference <= max(TOLERANCE, _AS_ROUNDING * rounding):
        raise ValueError(
            f"the exported model's logits differ from fairseq's by {difference:.1e}, more than "
            f"{TOLERANCE:g}; nothing was kept"
        )
    return Agreement(len(sentences), difference, rounding)


def _largest_difference(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Of the outputs that both have: an exported model may have ids behind the dictionary's."""
    return max(
        float((a - b[..., : a.shape[-1]]).abs().max()) for a, b in zip(one, two, strict=True)
    )
