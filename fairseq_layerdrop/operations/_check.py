# SPDX-License-Identifier: MIT
"""The check of what is written, before it takes its name: loaded by fairseq where it has to be."""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_layerdrop import checkpoint
from fairseq_layerdrop.operations._choices import CHECKS, check_choice
from fairseq_layerdrop.pruning.config import architecture, in_style, model_section, plain
from fairseq_layerdrop.pruning.families import family, own_options
from fairseq_layerdrop.pruning.surgery import NotThatModel

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.load_check import LoadCheck

TENSORS = "compared tensor by tensor"
Compare = Callable[[dict[str, Any]], None]
"""Compares a written state dict with its origin; raises where they differ."""


class Check:
    """How what is made of one model is checked.

    Args:
        full: the model's checkpoint, in today's form and keys.
        path: its file.
        kind: ``tensors`` are compared with the model's; ``load``, besides, is done by fairseq's own
            code, and the outputs are compared; ``auto`` loads what is of no family whose every
            option is known.
        user_dir: the plugin that the model needs in fairseq.
        data: the folder of its data set, if it is not where it was.

    Raises:
        ValueError: if there is no such check, or it needs fairseq, which is not installed.
    """

    def __init__(
        self,
        full: Mapping[str, Any],
        path: str,
        kind: str = "auto",
        *,
        user_dir: str | None = None,
        data: str | os.PathLike[str] | None = None,
    ) -> None:
        check_choice("check", kind, CHECKS)
        self._full, self._path, self._user_dir, self._data = full, path, user_dir, data
        why = _why_load(full)
        self.loads = kind == "load" or (kind == "auto" and why is not None)
        if self.loads and importlib.util.find_spec("fairseq") is None:
            raise ValueError(
                f"the check loads the model in fairseq ({why or 'it was asked for'}), which is not "
                "installed here; check=tensors compares the tensors only"
            )

    def save(
        self,
        small: Mapping[str, Any],
        output: str | os.PathLike[str],
        kept: Mapping[str, Sequence[int]],
        compare: Compare,
        *,
        inside: bool = False,
        style: str | None = None,
        force: bool = False,
    ) -> tuple[dict[str, Any], str]:
        """Write what was made; it takes its name when it was opened again and passed.

        Args:
            small: the checkpoint to write.
            output: where it goes.
            kept: the layers that it has of the full model, by stack or path.
            compare: how its tensors are compared.
            inside: whether its layers were cut inside, too.
            style: of its options, if one was asked for; else a Namespace is tried where plain ones
                do not load.
            force: replace a file that is there.

        Returns:
            What was written, and what was found, in words.

        Raises:
            CheckpointError: if it cannot be written.
            ValueError: if what was written does not load, or is another model.
        """

        def write(attempt: dict[str, Any]) -> str:
            found = TENSORS

            def check(written: Path) -> None:
                nonlocal found
                content = checkpoint.load(written)
                compare(content["model"])
                if self.loads:
                    found = self._load_check(content, kept, inside=inside)

            checkpoint.save(attempt, output, force=force, check=check)
            return found

        return self._first_that_passes(small, style, write)

    def verify(self, small: Mapping[str, Any], kept: Mapping[str, Sequence[int]]) -> str:
        """The same of a checkpoint in memory, whose tensors need no comparison.

        Raises:
            ValueError: if fairseq does not load it in any style, or it is another model.
        """
        if not self.loads:
            return TENSORS
        return self._first_that_passes(small, None, lambda tried: self._load_check(tried, kept))[1]

    def _first_that_passes(
        self, small: Mapping[str, Any], style: str | None, attempt: Callable[[dict[str, Any]], str]
    ) -> tuple[dict[str, Any], str]:
        refusals: list[str] = []
        for tried in _in_styles(small, style):
            try:
                return tried, attempt(tried)
            except NotThatModel as error:
                refusals.append(str(error))
        reasons = "; with its options in a Namespace, ".join(dict.fromkeys(refusals))
        raise ValueError(f"{self._path}: {reasons}")

    @cached_property
    def _load_check(self) -> "LoadCheck":
        logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells how it builds each model
        from fairseq_layerdrop.evaluation.load_check import LoadCheck
        from fairseq_layerdrop.evaluation.plugins import import_plugin

        if self._user_dir:
            import_plugin(self._user_dir)
        data = None if self._data is None else str(self._data)
        return LoadCheck(self._full, self._path, data=data)


def _why_load(full: Mapping[str, Any]) -> str | None:
    """Why a model of this kind is loaded for its check, in words; ``None`` where it need not be."""
    try:
        name = architecture(model_section(full))
    except ValueError:
        return None  # it has no options: nothing builds it
    if family(name) is None:
        return f"its architecture, {name}, may have options of its own"
    own = own_options(full["cfg"])
    return f"it has options of its own: {', '.join(own)}" if own else None


def _in_styles(small: Mapping[str, Any], style: str | None) -> Iterator[dict[str, Any]]:
    yield dict(small)
    cfg = small.get("cfg")
    if style is None and isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        yield {**small, "cfg": in_style(plain(cfg), "namespace")}
