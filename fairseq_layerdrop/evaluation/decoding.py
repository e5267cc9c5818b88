# SPDX-License-Identifier: MIT
"""Generate in memory, as ``fairseq-generate`` does, with any sub-network of a loaded model."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.data.data_utils import post_process
from fairseq.dataclass.configs import GenerationConfig

from fairseq_layerdrop.evaluation.loading import Batches, Loaded
from fairseq_layerdrop.evaluation.scorable import saying


class Decoder:
    """A beam search over a loaded model; restricting the model restricts what it decodes with.

    Args:
        loaded: a sequence-to-sequence model.
        beam: hypotheses that are followed.
        lenpen: exponent of the length by which a score is divided.
        max_len_a: at most ``max_len_a · source length + max_len_b`` tokens are generated.
        max_len_b: see ``max_len_a``.
        remove_bpe: how pieces become words, as fairseq-generate's flag of that name.
        exactly: generate this many tokens, whatever the model says, so that the work does not
            depend on its quality.

    Raises:
        ValueError: if the model generates nothing.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_a: float = 0,
        max_len_b: int = 200,
        remove_bpe: str | None = None,
        exactly: int | None = None,
    ) -> None:
        if not generates(loaded):
            raise ValueError(
                f"{type(loaded.model).__name__} generates nothing: BLEU, ROUGE and speed need a "
                "decoder"
            )
        lengths = {"max_len_a": max_len_a, "max_len_b": max_len_b}
        if exactly is not None:
            lengths = {"max_len_a": 0, "max_len_b": exactly, "min_len": exactly}
        config = GenerationConfig(beam=beam, lenpen=lenpen, **lengths)
        _check_pieces(remove_bpe)
        self.loaded, self.remove_bpe = loaded, remove_bpe
        if needs_languages(loaded):
            raise ValueError(
                f"{self._no_text}: its file names pairs of languages, but not one to translate "
                "(--source-lang, --target-lang)"
            )
        with saying(self._no_text), one_beam_after(loaded):
            self.generator = loaded.task.build_generator([loaded.model], config)
        self._ignored = {self.generator.eos}

    @torch.no_grad()
    def run(self, sample: Any) -> list[Any]:
        """The hypotheses of each sentence of a batch, the best first."""
        with saying(self._no_text), one_beam_after(self.loaded, self.generator):
            hypotheses: list[Any] = self.loaded.task.inference_step(
                self.generator, [self.loaded.model], sample
            )
        return hypotheses

    @property
    def _no_text(self) -> str:
        return f"{type(self.loaded.task).__name__} generates no text here"

    def texts(self, samples: Iterable[Any]) -> tuple[list[str], int]:
        """Each sentence's best hypothesis, in the data's order, and the total number of tokens."""
        found = {}
        tokens = 0
        for sample in samples:
            for number, hypotheses in zip(sample["id"].tolist(), self.run(sample), strict=True):
                found[number] = self._text(hypotheses[0]["tokens"])
                tokens += len(hypotheses[0]["tokens"])
        return [found[number] for number in sorted(found)], tokens

    def references(self, batches: Batches) -> list[str]:
        """The target side as the dictionary knows it, in the order of the data."""
        pad = self.loaded.task.target_dictionary.pad()
        texts = {}
        for sample in batches:
            for number, target in zip(sample["id"].tolist(), sample["target"], strict=True):
                texts[number] = self._text(utils.strip_pad(target, pad))
        return [texts[number] for number in sorted(texts)]

    def _text(self, tokens: Any) -> str:
        words = self.loaded.task.target_dictionary
        text: str = words.string(
            tokens.int().cpu(), self.remove_bpe, extra_symbols_to_ignore=self._ignored
        )
        return text


def _check_pieces(remove_bpe: str | None) -> None:
    try:
        post_process("", remove_bpe)
    except NotImplementedError:
        raise ValueError(
            "remove_bpe= is @@ (subword_nmt), sentencepiece, wordpiece, letter, silence, _EOW or "
            f"none, got {remove_bpe}"
        ) from None


@contextmanager
def one_beam_after(loaded: Loaded, generator: Any = None) -> Iterator[None]:
    """A scope in which the model decodes with the beam of a generator, and after it with one.

    fairseq's BART keeps the beam in its attention, where it would take every further forward for
    one of hypotheses: the losses of a batch were other ones, or an error.
    """
    set_beam_size = getattr(loaded.model, "set_beam_size", None)
    if set_beam_size and generator is not None:
        set_beam_size(generator.beam_size)
    try:
        yield
    finally:
        if set_beam_size:
            set_beam_size(1)


def needs_languages(loaded: Loaded) -> bool:
    """Whether the task has many languages, and was not told which to write."""
    options: Any = getattr(loaded.task, "args", None)
    return bool(getattr(options, "langtoks", None)) and options.target_lang is None


def generates(loaded: Loaded) -> bool:
    """Whether the model has an encoder to read and a decoder to write."""
    return hasattr(loaded.model, "encoder") and hasattr(loaded.model, "decoder")


def read_references(path: str, batches: Batches) -> list[str]:
    """The lines of a file that belong to these sentences: all of them, or one half.

    Raises:
        ValueError: if the file is not as long as the subset.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    if len(lines) != len(batches.dataset):
        raise ValueError(
            f"{path}: there must be a line for each of {len(batches.dataset)} sentences, got "
            f"{len(lines)}"
        )
    numbers = sorted(number for sample in batches for number in sample["id"].tolist())
    return [lines[number] for number in numbers]
