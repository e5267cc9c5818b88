# SPDX-License-Identifier: MIT
"""What both models say of a batch of sounds: waves, or the features of speech."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_layerdrop.formats.huggingface.agreement import Logits
from fairseq_layerdrop.formats.huggingface.inputs import pad


@dataclass(frozen=True)
class Utterance:
    """Features of speech, ``T x F``, and what is said in them, as ids with their end."""

    features: Tensor
    target: list[int]


def waves(count: int = 4) -> list[Tensor]:
    """Noise of a quarter of a second and less, at 16 kHz."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4000 - 320 * i, generator=generator) for i in range(count)]


def utterances(features: int, words: int, count: int = 20) -> list[Utterance]:
    """Noise in the place of features of speech, and ids drawn from a dictionary."""
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> Utterance:
        target = [*torch.randint(4, words, (length // 8,), generator=generator).tolist(), 2]
        return Utterance(torch.randn(length, features, generator=generator), target)

    return [draw(40 + 5 * i) for i in range(count)]


def encoder_logits(model: Any) -> Logits:
    """Of a fairseq encoder of sound: its features, or what its CTC head makes of them.

    HuBERT is run clip by clip: its padding mask is rounded to other frames than transformers'.
    """
    if type(model).__name__.startswith("Hubert"):
        return lambda clips: [_encode(model, [clip])[0] for clip in clips]
    return lambda clips: _encode(model, clips)


def exported_encoder(model: Any) -> Logits:
    """Of a model of transformers, which is run as fairseq's is."""
    if type(model).__name__.startswith("Hubert"):
        return lambda clips: [_run(model, [clip])[0] for clip in clips]
    return lambda clips: _run(model, clips)


def _encode(model: Any, clips: Sequence[Tensor]) -> list[Tensor]:
    source, real = _padded(clips)
    mask = None if bool(real.all()) else ~real
    if hasattr(model, "w2v_encoder"):
        found = model(source=source, padding_mask=mask)
        rows, padding = found["encoder_out"].transpose(0, 1), found["padding_mask"]
    else:
        found = model.extract_features(source, padding_mask=mask, mask=False)
        rows = found["x"] if isinstance(found, dict) else found[0]
        padding = found["padding_mask"] if isinstance(found, dict) else found[1]
    if padding is None:
        return [*rows]
    return [row[~masked] for row, masked in zip(rows, padding, strict=True)]


def _run(model: Any, clips: Sequence[Tensor]) -> list[Tensor]:
    source, real = _padded(clips)
    mask = None if bool(real.all()) else real.long()
    found = model(source, attention_mask=mask)
    rows = found.logits if hasattr(found, "logits") else found.last_hidden_state
    lengths = model._get_feat_extract_output_lengths(real.sum(1))
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def _padded(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One batch, and which of its samples are sound."""
    lengths = torch.tensor([len(clip) for clip in clips])
    source = pad_sequence([*clips], batch_first=True)
    return source, torch.arange(source.shape[1]) < lengths[:, None]


def recognition_logits(model: Any, pad_id: int, start: int) -> Logits:
    """Of a fairseq model that hears and writes; each text is given, behind the start."""

    def run(batch: Sequence[Utterance]) -> list[Tensor]:
        features, real = _padded([item.features for item in batch])
        previous = [[start, *item.target[:-1]] for item in batch]
        logits = model(features, real.sum(1), pad(previous, pad_id))[0]
        return [line[: len(row)] for line, row in zip(logits, previous, strict=True)]

    return run


def exported_recognition(model: Any, pad_id: int, start: int) -> Logits:
    """Of a model of transformers, likewise."""

    def run(batch: Sequence[Utterance]) -> list[Tensor]:
        features, real = _padded([item.features for item in batch])
        previous = [[start, *item.target[:-1]] for item in batch]
        ids = pad(previous, pad_id)
        logits = model(
            input_features=features,
            attention_mask=real.long(),
            decoder_input_ids=ids,
            decoder_attention_mask=ids.ne(pad_id).long(),
            use_cache=False,
        ).logits
        return [line[: len(row)] for line, row in zip(logits, previous, strict=True)]

    return run
