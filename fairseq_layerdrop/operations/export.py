# SPDX-License-Identifier: MIT
"""A model in another program's form: CTranslate2 for fast inference, or safetensors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq_layerdrop import __version__, checkpoint, formats
from fairseq_layerdrop.operations._choices import TARGETS, check_choice
from fairseq_layerdrop.operations._dictionaries import copy, plan_copies
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.surgery import prune_checkpoint

FileName = str | os.PathLike[str]
Write = Callable[[Path], None]
"""Write ``new``, the folder to be, and what is needed for that, into a folder to work in."""


def export(
    source: FileName,
    data: FileName,
    output: FileName,
    to: str,
    *,
    quantization: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a model as a folder that another program loads.

    >>> export("small.pt", "DATA", "small.ct2", "ctranslate2")  # doctest: +SKIP

    Args:
        source: a fairseq checkpoint (``.pt``), pruned or not; it is not changed.
        data: the data set in fairseq's binary form, for its dictionaries.
        output: the folder to write.
        to: ``ctranslate2`` or ``safetensors``.
        quantization: how CTranslate2's weights are stored, in its words; else in single precision.
        force: replace a folder that an export wrote.

    Returns:
        The facts: ``depth`` of each stack, ``bytes`` before and after, ``files``.

    Raises:
        CheckpointError: if the source cannot be read safely, or the folder not be written.
        ValueError: if the library is not installed, or cannot run the model, naming all reasons.

    Whatever is raised, nothing is written.
    """
    check_choice("to", to, TARGETS)
    if quantization and to != "ctranslate2":
        raise ValueError("quantization= goes with to=ctranslate2")
    formats.check_installed(to)
    checkpoint.check_folder(output, ours=formats.FILES, force=force)
    plan_copies(data, Path(output) / "model", force=True, of="DATA")
    full = checkpoint.open_source(source)
    with checkpoint.naming_file(source):
        write = _WRITERS[to](_stock(full), str(data), quantization)
    with checkpoint.new_folder(output, ours=formats.FILES, force=force) as scratch:
        write(scratch)
    files = sorted(path for path in Path(output).rglob("*") if path.is_file())
    return {
        "checkpoint": str(source),
        "output": str(output),
        "to": to,
        "quantization": quantization,
        "depth": full.depths,
        "bytes": [Path(source).stat().st_size, sum(path.stat().st_size for path in files)],
        "files": [path.relative_to(output).as_posix() for path in files],
    }


def _stock(full: Source) -> dict[str, Any]:
    """The whole model as a stock checkpoint, whatever wrote it."""
    whole = PruningPlan.from_specs({}, full.depths)
    return prune_checkpoint(full, whole, version=__version__, style="plain")


def _to_ctranslate2(stock: dict[str, Any], data: str, quantization: str | None) -> Write:
    from fairseq_layerdrop.formats.ctranslate2 import convert, for_converter

    readable = for_converter(stock)

    def write(scratch: Path) -> None:
        checkpoint.save(readable, scratch / "checkpoint.pt")
        convert(scratch / "checkpoint.pt", data, scratch / "new", quantization)

    return write


def _to_safetensors(stock: dict[str, Any], data: str, quantization: str | None) -> Write:
    from fairseq_layerdrop.formats import safetensors

    def write(scratch: Path) -> None:
        new = scratch / "new"
        new.mkdir()
        safetensors.write(stock, new)
        copy(plan_copies(data, new / "model", force=True, of="DATA"))

    return write


_WRITERS: dict[str, Callable[[dict[str, Any], str, str | None], Write]] = {
    "ctranslate2": _to_ctranslate2,
    "safetensors": _to_safetensors,
}
