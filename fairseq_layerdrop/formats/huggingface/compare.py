# SPDX-License-Identifier: MIT
"""A written model beside the fairseq model that it was made from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fairseq_layerdrop.formats.huggingface.agreement import Agreement, compare_logits
from fairseq_layerdrop.formats.huggingface.greedy import compare_continuations, compare_texts
from fairseq_layerdrop.formats.huggingface.inputs import Sentence, made_up, pad
from fairseq_layerdrop.formats.huggingface.sound import (
    encoder_logits,
    exported_encoder,
    exported_recognition,
    recognition_logits,
    utterances,
    waves,
)
from fairseq_layerdrop.formats.huggingface.source import Source, Target
from fairseq_layerdrop.formats.huggingface.text import (
    exported_logits,
    language_logits,
    roberta_logits,
    translation_logits,
)


@torch.no_grad()
def compare(
    model: Any,
    task: Any,
    exported: Any,
    source: Source,
    target: Target,
    sentences: Sequence[Sentence] = (),
    head: str | None = None,
) -> Agreement:
    """Compare logits on a padded batch, and what both write of it, word by likeliest word.

    Args:
        model: fairseq's.
        task: its task.
        exported: transformers', as it was read.
        source: the model as it was converted.
        target: what it was converted to.
        sentences: to compare on, for models that read text; without any, ids are drawn. Sound is
            noise.
        head: the head that was exported.

    Raises:
        ValueError: saying what differs.
    """
    pad_id, config = source.pad, target.config
    if target.generation is None and source.family != "roberta":
        return compare_logits(encoder_logits(model), exported_encoder(exported), waves())
    if source.family == "s2t_transformer":
        return _compare_recognition(model, task, exported, source, config)
    sentences = sentences or made_up(config.get("src_vocab_size") or config["vocab_size"])
    if source.family == "roberta":
        ours = exported_logits(exported, pad_id, None)
        return compare_logits(roberta_logits(model, pad_id, head), ours, sentences)
    if source.family == "transformer_lm":
        ours = exported_logits(exported, pad_id, None)
        agreement = compare_logits(language_logits(model, pad_id), ours, sentences)
        start = exported.generation_config.bos_token_id
        count = compare_continuations(model, task, exported, sentences, start)
        return replace(agreement, generated=count)
    return _compare_translation(model, task, exported, sentences, pad_id)


def _compare_translation(
    model: Any, task: Any, exported: Any, sentences: Sequence[Sentence], pad_id: int
) -> Agreement:
    start = exported.generation_config.decoder_start_token_id
    theirs = translation_logits(model, pad_id, start)
    agreement = compare_logits(theirs, exported_logits(exported, pad_id, start), sentences)
    sources = pad([sentence.source for sentence in sentences], pad_id)
    count = compare_texts(model, task, exported, sources, sources.ne(pad_id).sum(1))
    return replace(agreement, generated=count)


def _compare_recognition(
    model: Any, task: Any, exported: Any, source: Source, config: dict[str, Any]
) -> Agreement:
    start = exported.generation_config.decoder_start_token_id
    spoken = utterances(config["input_feat_per_channel"], config["vocab_size"])
    theirs = recognition_logits(model, source.pad, start)
    ours = exported_recognition(exported, source.pad, start)
    agreement = compare_logits(theirs, ours, spoken)
    features = [item.features for item in spoken]
    lengths = torch.tensor([len(item) for item in features])
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    count = compare_texts(model, task, exported, batch, lengths)
    return replace(agreement, generated=count)
