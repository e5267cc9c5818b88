# SPDX-License-Identifier: MIT
"""Into a CTranslate2 model, by CTranslate2's own converter of fairseq checkpoints."""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fairseq_layerdrop.formats.languages import MULTILINGUAL, Marks, marks, one_pair
from fairseq_layerdrop.formats.supported import refusals
from fairseq_layerdrop.pruning.config import in_style, plain


class Readable(NamedTuple):
    """A checkpoint as the converter reads it, and how the model is told its languages."""

    checkpoint: dict[str, Any]
    marks: Marks


def for_converter(
    checkpoint: Mapping[str, Any],
    data: str,
    fixed_dictionary: str | os.PathLike[str] | None = None,
) -> Readable:
    """A stock checkpoint as the converter reads it: one Namespace of model and task options.

    Args:
        checkpoint: the stock checkpoint.
        data: the folder of the dictionaries.
        fixed_dictionary: of all languages of a multilingual model, if it is not in ``data``.

    Raises:
        ValueError: naming everything that the converter does not take.
    """
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    cfg: dict[str, Any] = plain(checkpoint["cfg"])
    model = vars(in_style(cfg, "namespace")["model"])
    task, options = model["task"], cfg["task"] | model
    family = ARCH_MODEL_NAME_REGISTRY.get(model["arch"])
    if found := list(refusals(family, options, task, checkpoint["model"])):
        raise ValueError(f"CTranslate2 cannot run this model: {'; '.join(found)}")
    if fixed_dictionary is not None and task != MULTILINGUAL:
        raise ValueError(f"fixed_dictionary= goes with a model of {MULTILINGUAL}, not of {task}")
    if task == MULTILINGUAL:
        options = one_pair(options, data, fixed_dictionary)
    # Where the task's options are not the model's, too, the converter would guess the languages
    # from file names.
    readable = {
        "args": None,
        "cfg": {"model": Namespace(**options)},
        "model": checkpoint["model"],
    }
    return Readable(readable, marks(task, options))


def convert(
    checkpoint: Path, data: str, output: Path, quantization: str | None, *, ends: bool = True
) -> None:
    """Run the converter on a file of :func:`for_converter`; of the file no pickle is executed.

    Args:
        checkpoint: the file.
        data: the folder of the dictionaries.
        output: the folder to make.
        quantization: how the weights are stored, in CTranslate2's words; without one they stay as
            they are.
        ends: whether what is read ends, and what is written begins, with ``</s>``.

    Raises:
        ValueError: if the weights do not fit the dictionaries, or the converter does not take the
        model after all.
    """
    from ctranslate2.converters import FairseqConverter

    converter = FairseqConverter(str(checkpoint), data, no_default_special_tokens=not ends)
    # Not torch's safe_globals(): it would forget a Namespace that was allowed before.
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Namespace])
    try:
        converter.convert(str(output), quantization=quantization)
    except FileNotFoundError as error:
        raise ValueError(f"there is no dictionary for this model in {data}: {error}") from error
    except ValueError as error:
        raise ValueError(f"CTranslate2 cannot run this model: {error}") from error
    # fairseq's translation task raises a bare Exception when it cannot infer the language pair.
    except Exception as error:
        if not isinstance(error, RuntimeError) and type(error) is not Exception:
            raise
        what = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the model does not fit the data in {data} (its dictionaries?): {what}"
        ) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
