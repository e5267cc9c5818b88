# SPDX-License-Identifier: MIT
"""From a loaded fairseq model to a model of transformers."""

from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.formats.huggingface import (
    language,
    roberta,
    seq2seq,
    speech,
    speech_to_text,
)
from fairseq_layerdrop.formats.huggingface.reading import read
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_CONVERTERS = {
    "bart": seq2seq.convert,
    "transformer": seq2seq.convert,
    "transformer_lm": language.convert,
    "wav2vec2": speech.convert,
    "wav2vec2_ctc": speech.convert,
    "hubert": speech.convert,
    "s2t_transformer": speech_to_text.convert,
}


def convert(
    model: Any, task: Any, saved: Mapping[str, Any], *, head: str | None = None
) -> tuple[Source, Target]:
    """The model of transformers that computes what a fairseq model computes.

    Args:
        model: of stock fairseq, as its loading code built and filled it, in evaluation.
        task: that it was trained on.
        saved: the options of the model in its checkpoint.
        head: of a RoBERTa, the classification head that is exported.

    Raises:
        ValueError: naming what has no home in transformers.
    """
    source = read(model, task, saved)
    if source.family == "roberta":
        return source, roberta.convert(source, head)
    if head is not None:
        raise ValueError(f"head={head}: only a RoBERTa has heads to choose from")
    return source, _CONVERTERS[source.family](source)
