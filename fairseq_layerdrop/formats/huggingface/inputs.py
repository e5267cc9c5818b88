# SPDX-License-Identifier: MIT
"""What both models are asked: sentences as ids, in padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SENTENCES = 20
"""How many are compared."""


@dataclass(frozen=True)
class Sentence:
    """A sentence, with its end; what it is translated to, if anything."""

    source: list[int]
    target: list[int]


def made_up(words: int, count: int = SENTENCES, longest: int = 12) -> list[Sentence]:
    """Sentences of ids drawn from a dictionary of ``words`` words, of many lengths."""
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        return [*torch.randint(4, words, (length,), generator=generator).tolist(), 2]

    lengths = [2 + i * (longest - 2) // max(1, count - 1) for i in range(count)]
    return [Sentence(draw(length), draw(longest + 2 - length)) for length in lengths]


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """One batch, ``B x T``, padded at the end of the lines."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
