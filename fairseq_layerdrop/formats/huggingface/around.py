# SPDX-License-Identifier: MIT
"""What a task puts around a sentence: the beginning, the end, languages."""

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.tasks.denoising import DenoisingTask

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.formats.huggingface.source import Source

_PROBE = 4  # the first word of a dictionary that is not a special one


@dataclass(frozen=True)
class Around:
    """Ids before and after a sentence; between two sentences, where a model reads pairs."""

    before: list[int]
    after: list[int]
    between: list[int] | None = None


def around(task: Any, source: Source) -> Around:
    """What a model's task puts around what it reads."""
    if source.family == "transformer_lm":
        start = source.bos if getattr(task.args, "add_bos_token", False) else source.eos
        return Around([start], [])
    if source.family == "roberta":
        return _of_sentences(task, source)
    if isinstance(task, DenoisingTask):
        return Around([source.bos], [source.eos])  # as BART was pre-trained, without a language
    tokens = [torch.tensor([_PROBE, source.eos])]
    dataset = task.build_dataset_for_inference(tokens, [2])
    (row,) = dataset.collater([dataset[0]])["net_input"]["src_tokens"]  # some languages come here
    read = row.tolist()
    place = read.index(_PROBE)
    return Around(read[:place], read[place + 1 :])


def _of_sentences(task: Any, source: Source) -> Around:
    """Masked language models begin with ``<s>``; a fine-tuned one as its training said."""
    options = task_options(task)
    if not hasattr(options, "init_token"):
        return Around([source.bos], [source.eos], [source.eos, source.eos])
    first, between = options.init_token, options.separator_token
    before = [] if first is None else [first]
    return Around(before, [source.eos], [source.eos, *([] if between is None else [between])])
