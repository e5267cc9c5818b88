# SPDX-License-Identifier: MIT
"""fairseq's sinusoids as a table."""

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor


def sinusoids(rows: int, width: int, pad: int) -> Tensor:
    """The table that fairseq adds to embeddings, ``rows x width``; the row of the padding is 0."""
    return torch.as_tensor(SinusoidalPositionalEmbedding.get_embedding(rows, width, pad))
