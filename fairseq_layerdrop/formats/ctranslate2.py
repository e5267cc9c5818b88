# SPDX-License-Identifier: MIT
"""Into a CTranslate2 model, by CTranslate2's own converter of fairseq checkpoints."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fairseq_layerdrop.formats.supported import refusals
from fairseq_layerdrop.pruning.config import in_style, plain


def for_converter(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A stock checkpoint as the converter reads it: one Namespace of model and task options.

    Raises:
        ValueError: naming everything that the converter does not take.
    """
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    cfg: dict[str, Any] = plain(checkpoint["cfg"])
    model = vars(in_style(cfg, "namespace")["model"])
    family = ARCH_MODEL_NAME_REGISTRY.get(model["arch"])
    if found := list(refusals(family, model, model["task"], checkpoint["model"])):
        raise ValueError(f"CTranslate2 cannot run this model: {'; '.join(found)}")
    # Where the task's options are not the model's, too, the converter would guess the languages
    # from file names.
    return {
        "args": None,
        "cfg": {"model": Namespace(**cfg["task"] | model)},
        "model": checkpoint["model"],
    }


def convert(checkpoint: Path, data: str, output: Path, quantization: str | None) -> None:
    """Run the converter on a file of :func:`for_converter`; of the file no pickle is executed.

    Args:
        checkpoint: the file.
        data: the folder of the dictionaries.
        output: the folder to make.
        quantization: how the weights are stored, in CTranslate2's words; without one they stay as
            they are.

    Raises:
        ValueError: if the weights do not fit the dictionaries, or the converter does not take the
        model after all.
    """
    from ctranslate2.converters import FairseqConverter

    converter = FairseqConverter(str(checkpoint), data)
    # Not torch's safe_globals(): it would forget a Namespace that was allowed before.
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Namespace])
    try:
        converter.convert(str(output), quantization=quantization)
    except ValueError as error:
        raise ValueError(f"CTranslate2 cannot run this model: {error}") from error
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the model does not fit the data in {data} (its dictionaries?): {what}"
        ) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
