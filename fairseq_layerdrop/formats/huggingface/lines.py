# SPDX-License-Identifier: MIT
"""Whether a tokenizer gives a text's lines the ids that fairseq gives them."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_layerdrop.formats.huggingface.tokenizer import TextFiles


@dataclass(frozen=True)
class Line:
    """A line that comes out otherwise, with the pieces on both sides."""

    number: int
    text: str
    fairseq: list[str]
    exported: list[str]


@dataclass(frozen=True)
class LineAgreement:
    """How many lines of a text have fairseq's ids, and which have not."""

    lines: int
    different: list[Line]

    @property
    def share(self) -> float:
        """Of the lines that are equal."""
        return 1 - len(self.different) / self.lines


def compare_lines(
    tokenizer: Any,
    dictionary: Any,
    files: TextFiles,
    languages: tuple[str, str],
    text: Sequence[str],
) -> LineAgreement:
    """Encode each line as fairseq's own encoders and ``fairseq-preprocess`` do, and by the exported
    tokenizer.

    Raises:
        ValueError: if there is no line.
    """
    if not text:
        raise ValueError("text=: there must be lines to compare, got none")
    encode = _fairseq_encoder(files, languages)
    different = []
    for number, line in enumerate(text, 1):
        pieces = encode(line).split()
        expected = [dictionary.index(piece) for piece in pieces]
        found = tokenizer(line, add_special_tokens=False)["input_ids"]
        # An id behind the dictionary's is a piece that is not in it.
        known = [id_ if id_ < len(dictionary) else dictionary.unk() for id_ in found]
        if known != expected:
            words = tokenizer.convert_ids_to_tokens(found)
            different.append(Line(number, line, pieces, words))
    return LineAgreement(len(text), different)


def _fairseq_encoder(files: TextFiles, languages: tuple[str, str]) -> Callable[[str], str]:
    """fairseq's own encoder of the same files."""
    from fairseq.data import encoders

    if files.sentencepiece:
        options = Namespace(bpe="sentencepiece", sentencepiece_model=str(files.sentencepiece[0]))
        options.sentencepiece_enable_sampling = False
        options.sentencepiece_alpha = None
        return encoders.build_bpe(options).encode  # type: ignore[no-any-return]
    if files.gpt2_bpe is not None:
        encoder, merges = map(str, files.gpt2_bpe)
        options = Namespace(bpe="gpt2", gpt2_encoder_json=encoder, gpt2_vocab_bpe=merges)
        return encoders.build_bpe(options).encode  # type: ignore[no-any-return]
    pieces = Namespace(bpe="subword_nmt", bpe_codes=str(files.bpe_codes), bpe_separator="@@")
    words = Namespace(tokenizer="moses", source_lang=languages[0], target_lang=languages[1])
    words.moses_no_dash_splits = words.moses_no_escape = False
    moses, subwords = encoders.build_tokenizer(words), encoders.build_bpe(pieces)
    return lambda line: subwords.encode(moses.encode(line))
