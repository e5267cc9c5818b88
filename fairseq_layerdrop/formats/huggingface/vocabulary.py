# SPDX-License-Identifier: MIT
"""A fairseq dictionary as a tokenizer needs it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_LANGUAGE = re.compile(r"\[\w+\]|__\w+__")
"""As mBART and M2M-100 write them; their tasks append them to what ``dict.txt`` holds."""

_NO_TEXT = re.compile(rf"madeupword\d+|<mask>|<\w+>|{_LANGUAGE.pattern}")
"""What fairseq and its tasks add to the words of a text: fillers, the mask, languages."""

SPECIAL = 4
"""How many words of every dictionary are no text: beginning, padding, end, unknown."""


@dataclass(frozen=True)
class Vocabulary:
    """The words in the order of their ids.

    Attributes:
        words: all of them, the special ones first.
        bos, pad, eos, unk: ids.
    """

    words: list[str]
    bos: int
    pad: int
    eos: int
    unk: int

    @classmethod
    def of(cls, dictionary: Any) -> "Vocabulary":
        """A fairseq dictionary's; what its task added is in it."""
        return cls(
            [*dictionary.symbols],
            dictionary.bos(),
            dictionary.pad(),
            dictionary.eos(),
            dictionary.unk(),
        )

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def text_words(self) -> list[str]:
        """The words that come out of a text."""
        return [word for word in self.words[SPECIAL:] if not _NO_TEXT.fullmatch(word)]

    @property
    def languages(self) -> list[str]:
        """The words that stand for languages."""
        return [word for word in self.words[SPECIAL:] if _LANGUAGE.fullmatch(word)]

    def with_spare(self, pieces: Iterable[str]) -> dict[str, int]:
        """The ids, and ids behind them for pieces that are no words: what is merged must have a
        number of its own, be it unknown to the model.
        """
        ids = dict(self.ids)
        for piece in pieces:
            ids.setdefault(piece, len(ids))
        return ids
