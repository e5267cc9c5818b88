# SPDX-License-Identifier: MIT
"""Whether both models write the same, word by likeliest word."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from fairseq_layerdrop.formats.huggingface.inputs import Sentence

LONGEST = 60
"""How many words are compared of a text."""

PREFIX = 3
"""How many words of a sentence a language model is given."""


def compare_texts(
    model: Any, task: Any, exported: Any, sources: torch.Tensor, lengths: torch.Tensor
) -> int:
    """Greedy translations, or transcriptions, by both models.

    Args:
        model: fairseq's.
        task: its task.
        exported: transformers'.
        sources: ids, ``B x T``, or features of speech, ``B x T x F``, padded at the end.
        lengths: of each.

    Returns:
        of how many sentences they are equal, which is all.

    Raises:
        ValueError: naming the first sentence that differs.
    """
    expected = _fairseq(model, task, sources, lengths, LONGEST)
    name = "input_ids" if sources.dim() == 2 else "input_features"
    mask = torch.arange(sources.shape[1]) < lengths[:, None]
    ids = exported.generate(
        **{name: sources},
        attention_mask=mask.long(),
        num_beams=1,
        do_sample=False,
        max_new_tokens=LONGEST + 1,  # the end counts here
        early_stopping=False,
    )
    end = _ends(exported)
    for number, (one, two) in enumerate(zip(expected, ids.tolist(), strict=True)):
        _check_equal(number, _until(one, end), _until(two[1:], end))
    return len(expected)


def compare_continuations(
    model: Any, task: Any, exported: Any, sentences: Sequence[Sentence], start: int
) -> int:
    """Greedy continuations of the beginnings of sentences, likewise."""
    end = _ends(exported)
    words = [[id_ for id_ in sentence.source if id_ not in (start, *end)] for sentence in sentences]
    begun = [[start, *row[:PREFIX]] for row in words]
    for length in sorted({*map(len, begun)}):  # a batch without padding, of each length
        numbers = [number for number, row in enumerate(begun) if len(row) == length]
        batch = torch.tensor([begun[number] for number in numbers])
        lengths = torch.full((len(numbers),), length)
        expected = _fairseq(model, task, batch, lengths, length - 1 + LONGEST)
        found = exported.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            num_beams=1,
            do_sample=False,
            max_new_tokens=LONGEST,
        ).tolist()
        for number, one, two in zip(numbers, expected, found, strict=True):
            written = one[length - 1 : length - 1 + LONGEST]
            _check_equal(number, _until(written, end), _until(two[length:], end))
    return len(sentences)


def _fairseq(
    model: Any, task: Any, sources: torch.Tensor, lengths: torch.Tensor, longest: int
) -> list[list[int]]:
    sample = {"net_input": {"src_tokens": sources, "src_lengths": lengths}}
    generator = task.build_generator([model], Namespace(beam=1, max_len_b=longest))
    hypotheses = task.inference_step(generator, [model], sample)
    return [found[0]["tokens"].tolist() for found in hypotheses]


def _ends(exported: Any) -> set[int]:
    end = exported.generation_config.eos_token_id
    return {end} if isinstance(end, int) else {*end}


def _until(row: Sequence[int], end: set[int]) -> list[int]:
    """The words before the end."""
    last = next((place for place, word in enumerate(row) if word in end), len(row))
    return [*row[:last]]


def _check_equal(number: int, expected: list[int], found: list[int]) -> None:
    if expected != found:
        raise ValueError(
            f"the exported model writes another text than fairseq for sentence {number + 1}; "
            "nothing was kept"
        )
