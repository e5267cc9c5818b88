# SPDX-License-Identifier: MIT
"""The files beside a model with a CTC head: its letters, and how a wave is prepared."""

import json
from pathlib import Path

from fairseq_layerdrop.formats.huggingface.vocabulary import Vocabulary

_RATE = 16000  # Hz


def write_letters(vocabulary: Vocabulary, folder: Path) -> None:
    """Write ``vocab.json`` and ``tokenizer_config.json`` of ``Wav2Vec2CTCTokenizer``, whose blank
    is the padding where fairseq's is the beginning.
    """
    names = {vocabulary.bos: "<pad>", vocabulary.pad: "<s>"}
    letters = {names.get(id_, word): id_ for id_, word in enumerate(vocabulary.words)}
    config = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    _write(folder / "vocab.json", letters)
    _write(folder / "tokenizer_config.json", config)


def write_preparation(*, normalized: bool, masked: bool, folder: Path) -> None:
    """Write ``preprocessor_config.json`` of ``Wav2Vec2FeatureExtractor``.

    Args:
        normalized: whether waves had mean 0 and variance 1 in training.
        masked: whether the model is given which samples are padding.
        folder: where it goes.
    """
    config = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": normalized,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": masked,
        "sampling_rate": _RATE,
    }
    _write(folder / "preprocessor_config.json", config)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
