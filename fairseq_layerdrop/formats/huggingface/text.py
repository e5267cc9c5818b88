# SPDX-License-Identifier: MIT
"""What both models say of a batch of sentences."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.formats.huggingface.agreement import Logits
from fairseq_layerdrop.formats.huggingface.inputs import Sentence, pad


def roberta_logits(model: Any, pad_id: int, head: str | None) -> Logits:
    """Of a fairseq RoBERTa, with one of its heads."""

    def run(sentences: Sequence[Sentence]) -> list[Tensor]:
        logits = model(pad(_sources(sentences), pad_id), classification_head_name=head)[0]
        return [*logits] if head else _cut(logits, _sources(sentences))

    return run


def language_logits(model: Any, pad_id: int) -> Logits:
    """Of a fairseq language model."""

    def run(sentences: Sequence[Sentence]) -> list[Tensor]:
        return _cut(model(pad(_sources(sentences), pad_id))[0], _sources(sentences))

    return run


def translation_logits(model: Any, pad_id: int, start: int) -> Logits:
    """Of a fairseq model that reads and writes; each target is given, behind the start."""

    def run(sentences: Sequence[Sentence]) -> list[Tensor]:
        sources, previous = _sources(sentences), _previous(sentences, start)
        lengths = torch.tensor([len(row) for row in sources])
        return _cut(model(pad(sources, pad_id), lengths, pad(previous, pad_id))[0], previous)

    return run


def exported_logits(model: Any, pad_id: int, start: int | None) -> Logits:
    """Of a model of transformers; with a start it is one that reads and writes."""

    def run(sentences: Sequence[Sentence]) -> list[Tensor]:
        sources = pad(_sources(sentences), pad_id)
        inputs: dict[str, Any] = {"input_ids": sources, "attention_mask": sources.ne(pad_id).long()}
        rows = _sources(sentences)
        if start is not None:
            rows = _previous(sentences, start)
            previous = pad(rows, pad_id)
            inputs |= {"decoder_input_ids": previous}
            inputs |= {"decoder_attention_mask": previous.ne(pad_id).long()}
        if start is not None or hasattr(model, "generation_config"):
            inputs["use_cache"] = False
        logits = model(**inputs).logits
        return [*logits] if logits.dim() == 2 else _cut(logits, rows)

    return run


def _sources(sentences: Sequence[Sentence]) -> list[list[int]]:
    return [sentence.source for sentence in sentences]


def _previous(sentences: Sequence[Sentence], start: int) -> list[list[int]]:
    return [[start, *sentence.target[:-1]] for sentence in sentences]


def _cut(logits: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    return [line[: len(row)] for line, row in zip(logits, rows, strict=True)]
