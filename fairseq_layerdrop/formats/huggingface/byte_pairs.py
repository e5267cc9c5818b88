# SPDX-License-Identifier: MIT
"""GPT-2's byte-pair encoding as a ``tokenizer.json`` whose ids are those of the dictionary.

fairseq encodes a text to GPT-2's numbers first, and these numbers, as text, are the words of
``dict.txt``.
"""

import json
from pathlib import Path
from typing import Any

from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary


def build(encoder: Path, merges: Path, vocabulary: Vocabulary) -> Any:
    """The tokenizer, without what it puts around a sentence.

    Args:
        encoder: GPT-2's ``encoder.json``.
        merges: GPT-2's ``vocab.bpe``.
        vocabulary: the dictionary's.

    Raises:
        ValueError: if a file is not what it should be, or the dictionary is one of other words.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    numbers = _read_numbers(encoder)
    pieces = {str(number): piece for piece, number in numbers.items()}
    known = [word for word in vocabulary.text_words if word in pieces]
    if len(known) < len(vocabulary.text_words):
        raise ValueError(
            f"gpt2_bpe=: {encoder} has {len(known)} of the dictionary's "
            f"{len(vocabulary.text_words)} words; was its text encoded by another BPE?"
        )
    words = [pieces.get(word, word) for word in vocabulary.words]
    named = Vocabulary(words, vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk)
    tokenizer = Tokenizer(
        BPE(vocab=named.with_spare(numbers), merges=_read_merges(merges), unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_numbers(path: Path) -> dict[str, int]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"gpt2_bpe=: {path} is not an encoder.json: {error}") from None
    if not isinstance(numbers, dict) or not all(isinstance(n, int) for n in numbers.values()):
        raise ValueError(f"gpt2_bpe=: {path} is not an encoder.json: it must name a number a piece")
    return numbers


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"gpt2_bpe=: {path} is not a vocab.bpe: {error}") from None
    pairs = [line.split() for line in lines if not line.startswith("#version") and line.strip()]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise ValueError(f"gpt2_bpe=: {path} is not a vocab.bpe: a line has {len(wrong)} pieces")
    return [(left, right) for left, right in pairs]
