# SPDX-License-Identifier: MIT
"""The engines that :mod:`benchmarks.inference` compares, each with fairseq's settings."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from fairseq_layerdrop.evaluation.decoding import Decoder
from fairseq_layerdrop.evaluation.loading import Loaded

Pieces = list[list[str]]


class Sentences(NamedTuple):
    """What is translated: numbers in the data, batches for fairseq, pieces for CTranslate2."""

    numbers: list[int]
    samples: list[Any]
    sources: Pieces


Translate = Callable[[Sentences], Pieces]


def in_fairseq(loaded: Loaded, args: Namespace) -> Translate:
    """By a model that fairseq loaded."""
    decoder = Decoder(loaded, beam=args.beam, max_len_b=args.max_len_b)
    words = loaded.task.target_dictionary

    def translate(sentences: Sentences) -> Pieces:
        found = [
            best["tokens"].tolist()
            for sample in sentences.samples
            for best, *_ in decoder.run(sample)
        ]
        return [[words[token] for token in tokens if token != words.eos()] for tokens in found]

    return translate


def in_ctranslate2(translator: Any, args: Namespace, batch: int) -> Translate:
    """By an exported model."""
    settings = {
        "beam_size": args.beam,
        "max_decoding_length": args.max_len_b,
        "max_input_length": 0,
    }

    def translate(sentences: Sentences) -> Pieces:
        results = translator.translate_batch(sentences.sources, max_batch_size=batch, **settings)
        return [result.hypotheses[0] for result in results]

    return translate


def in_transformers(folder: Path, loaded: Loaded, args: Namespace) -> Translate:
    """By an exported model; fairseq's batches, padded at the other end."""
    from fairseq_layerdrop.formats.huggingface.library import transformers

    library, words = transformers(), loaded.task.target_dictionary
    library.utils.logging.disable_progress_bar()
    name = library.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(library, name).from_pretrained(folder).to(loaded.device).eval()
    # The start and the end count here.
    settings = {"num_beams": args.beam, "max_length": args.max_len_b + 2, "early_stopping": True}

    def run(sample: Any) -> list[list[int]]:
        rows = [row[row != words.pad()] for row in sample["net_input"]["src_tokens"]]
        ids = pad_sequence(rows, batch_first=True, padding_value=words.pad())
        mask = ids.ne(words.pad()).long()
        found: torch.Tensor = model.generate(input_ids=ids, attention_mask=mask, **settings)
        return found[:, 1:].tolist()

    def translate(sentences: Sentences) -> Pieces:
        silent = (words.eos(), words.pad())
        found = [tokens for sample in sentences.samples for tokens in run(sample)]
        return [[words[token] for token in tokens if token not in silent] for tokens in found]

    return translate
