# SPDX-License-Identifier: MIT
"""Whether what was made of a model is one that fairseq loads, and that computes what the model
does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from torch import nn

import fairseq_layerdrop
from fairseq_layerdrop.evaluation.building import Built, build
from fairseq_layerdrop.evaluation.probes import Made, Probe, differences, find_probe, run, settings
from fairseq_layerdrop.modules.subnetwork import restricted
from fairseq_layerdrop.pruning.surgery import NotThatModel

_OF_DEPTH = re.compile(
    r".*(layers|layerdrop\w*|alignment_layer|num_updates|early_exit)|.*\.p|.*drop\w*"
)
"""Settings that another depth, or a stock model, may have otherwise; dropout is idle here."""

EQUAL = "loaded by fairseq, outputs equal"
LOADED = "loaded by fairseq; its outputs were not compared: no made-up input fits it"
INSIDE = "loaded by fairseq, what is inside its layers compared tensor by tensor"


class LoadCheck:
    """The check of what is cut from one checkpoint; its model is built once.

    Args:
        full: the checkpoint's content, in today's form.
        name: its file.
        data: the folder of its data set, if it is not where it was.
    """

    def __init__(self, full: Mapping[str, Any], name: str, *, data: str | None = None) -> None:
        fairseq_layerdrop.register()
        self._full, self._name, self._data = full, name, data

    def __call__(
        self, content: Mapping[str, Any], kept: Mapping[str, Sequence[int]], *, inside: bool = False
    ) -> str:
        """Build what was cut, and compare it with the full model restricted in memory.

        Args:
            content: of the file that was written.
            kept: the layers that stay, by stack or path.
            inside: whether it was cut inside its layers, too, where the full model has no such
                sub-network.

        Returns:
            What was found, in words.

        Raises:
            NotThatModel: if fairseq cannot load it, or it is another model.
            ValueError: if fairseq cannot load the full model itself.
        """
        full = self._built  # first: what is wrong with it is not the cut's
        try:
            small = build(content, self._name, data=self._data)
        except ValueError as error:
            raise NotThatModel(f"fairseq cannot load what was written: {error}") from error
        if inside:
            return INSIDE
        with restricted(full.model, kept):
            self._compare_settings(small)
            return self._compare_outputs(small)

    @cached_property
    def _built(self) -> Built:
        try:
            return build(self._full, self._name, data=self._data)
        except ValueError as error:
            raise ValueError(
                f"fairseq cannot load {self._name} itself: {error}; check=tensors compares the "
                "tensors only"
            ) from error

    @cached_property
    def _made(self) -> Made:
        task, model = self._built.task, self._built.model
        sizes = [module.num_embeddings for module in _word_embeddings(model)]
        sizes += [len(words) for words in _dictionaries(task)]
        features = getattr(getattr(task, "data_cfg", None), "input_feat_per_channel", 80)
        bins = getattr(getattr(model, "decoder", None), "out_dim", 80)
        return Made(min(sizes, default=100), features, bins, getattr(task, "channels", ()))

    @cached_property
    def _probe(self) -> Probe | None:
        return find_probe(self._built.model, self._made)

    def _compare_settings(self, small: Built) -> None:
        mine, theirs = settings(self._built.model), settings(small.model)
        for path in mine.keys() & theirs.keys():
            if mine[path] != theirs[path] and not _OF_DEPTH.fullmatch(path):
                raise NotThatModel(
                    f"what was written is another model: its {path} is {theirs[path]}, not "
                    f"{mine[path]}"
                )

    def _compare_outputs(self, small: Built) -> str:
        if self._probe is None:
            return LOADED
        expected = run(self._probe, self._built.model, self._made)
        try:
            found = run(self._probe, small.model, self._made)
        except Exception as error:
            raise NotThatModel(f"what was written does not run in fairseq: {error}") from error
        if (off := differences(expected, found)) is not None:
            raise NotThatModel(
                f"what was written computes something else than the full model: off by {off:.2g}"
            )
        return EQUAL


def _word_embeddings(model: nn.Module) -> Iterator[nn.Embedding]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("embed_tokens"):
            yield module


def _dictionaries(task: Any) -> Iterator[Any]:
    for name in ("source_dictionary", "target_dictionary", "dictionary"):
        # A task that has several, or none, may raise what it likes.
        with suppress(Exception):
            words = getattr(task, name)
            if hasattr(words, "symbols"):
                yield words
