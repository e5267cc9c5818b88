# SPDX-License-Identifier: MIT
"""A sentencepiece model as a ``tokenizer.json`` whose ids are those of the dictionary.

sentencepiece numbers its pieces itself; fairseq numbers them by ``dict.txt``, and makes a piece
that is not in it ``<unk>``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary

_NORMAL, _CONTROL, _USER, _BYTE = 1, 3, 4, 6  # the types of pieces in sentencepiece's model
_UNIGRAM, _BPE = 1, 2  # the types of models
_SHARE = 0.9
"""How many of a dictionary's words must be pieces of the model; the others are its languages, and
characters that the model did not know.
"""


def read(path: Path) -> Any:
    """A sentencepiece model's own description.

    Raises:
        ValueError: if the file is none.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    if not path.is_file():
        raise ValueError(f"sentencepiece=: there is no file {path}")
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"sentencepiece=: {path} is not a sentencepiece model") from None
    if proto.trainer_spec.model_type not in (_UNIGRAM, _BPE):
        raise ValueError(f"sentencepiece=: {path} is neither a Unigram nor a BPE model")
    return proto


def build(proto: Any, vocabulary: Vocabulary) -> Any:
    """The tokenizer, without what it puts around a sentence.

    Raises:
        ValueError: if the dictionary is one of other pieces.
    """
    from tokenizers import Tokenizer

    _check_pieces(proto, vocabulary)
    unigram = proto.trainer_spec.model_type == _UNIGRAM
    model = _unigram(proto, vocabulary) if unigram else _bpe(proto, vocabulary)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tokenizer.pre_tokenizer = _pre_tokenizer(proto)
    tokenizer.decoder = _decoder(proto)
    return tokenizer


def _check_pieces(proto: Any, vocabulary: Vocabulary) -> None:
    pieces = {piece.piece for piece in proto.pieces}
    words = vocabulary.text_words
    known = sum(word in pieces for word in words)
    if known < _SHARE * len(words):
        raise ValueError(
            f"sentencepiece=: the model has {known} of the dictionary's {len(words)} words; it is "
            "another model's"
        )


def _unigram(proto: Any, vocabulary: Vocabulary) -> Any:
    """Every word of the dictionary with its piece's score; others with the least, so that they do
    not change how an unknown character is weighed.
    """
    from tokenizers.models import Unigram

    scores = {piece.piece: piece.score for piece in proto.pieces}
    least = min(piece.score for piece in proto.pieces if piece.type == _NORMAL)
    pieces = [(word, scores.get(word, least)) for word in vocabulary.words]
    return Unigram(pieces, vocabulary.unk, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any, vocabulary: Vocabulary) -> Any:
    """The dictionary's words, and pieces that only merges go through; the best piece is merged
    first.
    """
    from tokenizers.models import BPE

    ranks = {
        piece.piece: (-piece.score, number)
        for number, piece in enumerate(proto.pieces)
        if piece.type == _NORMAL
    }
    merges = _merges(ranks)
    ids = vocabulary.with_spare([part for merge in merges for part in (*merge, "".join(merge))])
    singles = [piece for piece in ranks if len(piece) == 1]
    return BPE(
        vocab=vocabulary.with_spare([*ids, *singles]),
        merges=merges,
        unk_token=vocabulary.words[vocabulary.unk],
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _merges(ranks: dict[str, tuple[float, int]]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, by the rank of what is made."""
    found = []
    for piece, rank in ranks.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ranks and right in ranks:
                found.append((rank, left, right))
    return [(left, right) for _, left, right in sorted(found)]


def _normalizer(spec: Any) -> Any:
    """In sentencepiece's order; of white space it removes only spaces."""
    from tokenizers import Regex
    from tokenizers.normalizers import Precompiled, Replace
    from tokenizers.normalizers import Sequence as InTurn

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [Replace(Regex(r"\A +| +\z"), ""), Replace(Regex(" {2,}"), " ")]
    if spec.escape_whitespaces:
        steps.append(Replace(" ", "▁"))
    if spec.add_dummy_prefix:
        # Metaspace adds no prefix where there is one, sentencepiece does.
        steps.append(Replace(Regex(r"\A▁"), "▁▁"))
    return InTurn(steps)


def _pre_tokenizer(proto: Any) -> Any:
    """The space before the first word; pieces that a user defined are never parted or merged."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Metaspace, Split
    from tokenizers.pre_tokenizers import Sequence as InTurn

    steps: list[Any] = []
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(Metaspace(replacement="▁", prepend_scheme="first", split=False))
    if own := [piece.piece for piece in proto.pieces if piece.type == _USER]:
        steps.append(Split(Regex(_any_of(own)), behavior="isolated"))
    return InTurn(steps)


def _any_of(pieces: Sequence[str]) -> str:
    import re

    return "|".join(re.escape(piece) for piece in sorted(pieces, key=len, reverse=True))


def _decoder(proto: Any) -> Any:
    from tokenizers.decoders import ByteFallback, Fuse, Replace, Strip
    from tokenizers.decoders import Sequence as InTurn

    steps: list[Any] = [Replace("▁", " ")]
    if proto.trainer_spec.byte_fallback:
        steps.append(ByteFallback())
    steps.append(Fuse())
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(Strip(content=" ", left=1))
    return InTurn(steps)
