# SPDX-License-Identifier: MIT
"""A model from a checkpoint's content, by fairseq's own loading code, with or without its data.

fairseq reads nothing itself: files that it opens on the way (``w2v_path``) are read by
:mod:`~fairseq_layerdrop.checkpoint`, and options that it hands to ``eval`` must be numbers. Where
the dictionaries of the model's data are not there, made-up ones of the right size take their place;
so do made-up languages where only the names of these files would tell them.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple
from unittest import mock

from fairseq import checkpoint_utils
from fairseq.data import Dictionary, data_utils
from torch import Tensor

from fairseq_layerdrop.checkpoint import reading_for_fairseq
from fairseq_layerdrop.pruning.config import plain

_EVALUATED = re.compile(
    r"(encoder|decoder|conv\w*)_(layers|attention)|(self|gated)_attention|\w+_(cutoff|filters)"
    r"|\w+_size_list|pretrained|project_input|downsample"
)
"""Options that fairseq's models evaluate as Python."""
_ARITHMETIC = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.UnaryOp, ast.USub),
    *(ast.BinOp, ast.Add, ast.Mult, ast.Load),
)
_EMBEDDINGS = re.compile(
    r"(.*\.)?(embed_tokens|output_projection|lm_head)\.weight|(.*\.)?proj\.weight"
)
_SIZES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(\d+)[\d, ]*\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(\d+)"
)


class Built(NamedTuple):
    """A model in evaluation, filled, and the task that it was built with."""

    model: Any
    task: Any


def build(content: Mapping[str, Any], name: str, *, data: str | None = None) -> Built:
    """Build the model of a checkpoint's content and fill it strictly, as fairseq would from a file.

    Args:
        content: what :func:`fairseq_layerdrop.checkpoint.load` returns.
        name: a file that is there; what its errors and fairseq's log call the content.
        data: the folder of the model's data set, instead of the one that it was trained on.

    Raises:
        ValueError: if fairseq cannot load it, with the last line of fairseq's own words.
    """
    check_evaluated(content)
    with (
        reading_for_fairseq({name: dict(content)}),
        _dictionaries(content["model"]) as words,
        _languages(),
        redirect_stdout(StringIO()),  # some of fairseq's models print themselves
    ):
        for _ in range(3):
            try:
                return _load(name, data)
            except Exception as error:  # fairseq's models and tasks raise what they like
                if not (words.made_up and words.learn(str(error))):
                    raise ValueError(_said(error)) from error
        raise ValueError("no dictionary fits its embeddings")


def check_evaluated(content: Mapping[str, Any]) -> None:
    """Refuse options that fairseq would hand to ``eval`` and that are more than numbers.

    Raises:
        ValueError: naming the option.
    """
    for name, value in _options(plain(content.get("cfg") or content.get("args"))):
        if isinstance(value, str) and _EVALUATED.fullmatch(name) and not _is_arithmetic(value):
            raise ValueError(f"the option {name} must be numbers, got {value!r}; nothing was run")


def _load(name: str, data: str | None) -> Built:
    overrides = {} if data is None else {"data": data}
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([name], overrides)
    return Built(model.eval().requires_grad_(False), task)


def _options(section: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(section, Mapping):
        for name, value in section.items():
            yield str(name), value
            yield from _options(value)


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text.strip() or "0", mode="eval")
    except (SyntaxError, ValueError):
        return True  # nor can eval run it
    return all(isinstance(node, _ARITHMETIC) for node in ast.walk(tree))


def _said(error: Exception) -> str:
    """One line of what fairseq said: of the missing and unexpected keys the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
    kind = "" if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: "
    return kind + (line if len(line) < 200 else f"{line[:200]}…")


class _Words:
    """How many words the dictionaries have that are not there."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.made_up = False
        rows = [t.shape[0] for key, t in state.items() if t.dim() and _EMBEDDINGS.fullmatch(key)]
        self.count = rows[0] if rows else 4

    def learn(self, error: str) -> bool:
        """Take the right number from fairseq's words about one that does not fit."""
        for key, wanted, got in _SIZES.findall(error):
            if _EMBEDDINGS.fullmatch(key) and wanted != got:
                self.count += int(wanted) - int(got)
                return self.count > 4
        return False


@contextmanager
def _dictionaries(state: Mapping[str, Tensor]) -> Iterator[_Words]:
    """A scope in which a dictionary that is not there is one of made-up words."""
    words, read = _Words(state), Dictionary.add_from_file

    def add_from_file(self: Dictionary, file: Any) -> None:
        if not isinstance(file, str) or os.path.exists(file):
            read(self, file)
            return
        words.made_up = True
        for number in range(max(0, words.count - len(self))):
            self.add_symbol(f"word{number}")

    with mock.patch.object(Dictionary, "add_from_file", add_from_file):
        yield words


@contextmanager
def _languages() -> Iterator[None]:
    """A scope in which a pair of languages that no file tells is made up."""
    infer = data_utils.infer_language_pair

    def infer_language_pair(path: str) -> tuple[str, str]:
        if os.path.isdir(path):
            source, target = infer(path)
            if source:
                return source, target
        return "source", "target"

    with mock.patch.object(data_utils, "infer_language_pair", infer_language_pair):
        yield
