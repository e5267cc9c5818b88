# SPDX-License-Identifier: MIT
"""Reading: safe, mapped, with one clear line for everything that can be wrong with a file."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fairseq_layerdrop.checkpoint._errors import CheckpointError
from fairseq_layerdrop.checkpoint._limits import check_archive, check_content
from fairseq_layerdrop.checkpoint._pickles import entries, is_zip, named_objects
from fairseq_layerdrop.checkpoint._shards import check_name, check_whole, only_parts
from fairseq_layerdrop.checkpoint._stand_ins import KNOWN, foreign, stand_ins, to_plain
from fairseq_layerdrop.pruning.config import is_plain

_torch_load = torch.load  # also where fairseq's calls of it come to this room


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a fairseq checkpoint without running anything in it; tensors are memory-mapped.

    Configurations come as plain data, whatever kind of object they were saved as; other objects
    (training statistics, dictionaries) as inert stand-ins.

    Raises:
        CheckpointError: if the file is absent, damaged, no fairseq checkpoint, one part of a model,
        or would run code.
    """
    if "://" in os.fspath(path):
        raise CheckpointError(f"{path} is not a file on this machine; copy it here first")
    path = Path(path)
    mapped = _check_readable(path)
    if mapped:
        check_archive(path)
    try:
        checkpoint, objects = _unpickle(path, mapped, []), False
    except Exception as error:  # the bytes are arbitrary: any kind of error may be the file's
        checkpoint, objects = _load_objects(path, mapped, error), True
    check_content(checkpoint, path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError(
            f"{path} is not a fairseq checkpoint: it has no dictionary named 'model'"
        )
    if not all(isinstance(value, torch.Tensor) for value in checkpoint["model"].values()):
        raise CheckpointError(
            f"{path} is not a fairseq checkpoint: its 'model' holds something else than tensors"
        )
    checkpoint = to_plain(checkpoint) if objects else checkpoint
    check_whole(checkpoint, path)
    return checkpoint


def _load_objects(path: Path, mapped: bool, error: Exception) -> Any:
    """The second try, for files that hold objects of other libraries: with stand-ins for them."""
    if isinstance(error, OSError) and error.filename is not None:
        raise error
    names = list(named_objects(path))
    allowed = [] if foreign(names) else stand_ins(names)
    if not allowed:
        raise CheckpointError(_explain(path, names)) from error
    try:
        return _unpickle(path, mapped, allowed)
    except Exception as second:
        raise CheckpointError(_explain(path, names)) from second


def _unpickle(path: Path, mapped: bool, allowed: list[Any]) -> Any:
    # What this process allows does not hold here: of two things by one name either could be taken.
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*KNOWN, *allowed])
    try:
        with warnings.catch_warnings():
            # About pickle protocols, from files that are then refused.
            warnings.simplefilter("ignore")
            return _torch_load(path, map_location="cpu", weights_only=True, mmap=mapped)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def digest(path: str | os.PathLike[str]) -> str:
    """What identifies a checkpoint's content: 32 hexadecimal digits.

    Taken from the archive's own directory (names, sizes, CRCs), so that it costs nothing on
    gigabytes; the old, not zip, format is hashed whole. The file's name does not enter.

    Raises:
        CheckpointError: if the archive's directory is damaged.
    """
    content = hashlib.blake2b(digest_size=16)
    if is_zip(Path(path)):
        found = entries(Path(path))
        facts = [(e.filename.partition("/")[2], e.file_size, e.CRC) for e in found]
        for name, size, crc in sorted(facts):
            content.update(f"{name} {size} {crc}\n".encode())
    else:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    return content.hexdigest()


def file_format(path: str | os.PathLike[str]) -> str:
    """``zip``, or ``legacy`` for what torch wrote before version 1.6."""
    return "zip" if is_zip(Path(path)) else "legacy"


def _check_readable(path: Path) -> bool:
    """Name what can be wrong with a path; return whether its tensors can be mapped."""
    check_name(path)
    if not path.exists():
        raise CheckpointError(f"there is no file {path}{only_parts(path)}")
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a directory; name a checkpoint in it, e.g. {path / 'checkpoint_best.pt'}"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty")
    return is_zip(path)


def _explain(path: Path, names: list[str]) -> str:
    strange = foreign(names)
    if strange:
        return (
            f"{path} is refused: loading it would run {', '.join(strange)}, which is not plain "
            "data; nothing was run"
        )
    if is_zip(path) and not _is_whole(path):
        return (
            f"{path} is damaged: the end of the archive is missing (an incomplete copy or "
            "download?)"
        )
    return f"{path} is not a checkpoint that torch can read"


def _is_whole(path: Path) -> bool:
    try:
        return bool(entries(path))
    except CheckpointError:
        return False


@contextmanager
def reading_for_fairseq(given: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    """A scope in which whatever fairseq reads, of itself by ``torch.load``, is read by this room.

    Args:
        given: what is read under a name: contents of checkpoints by path.
    """

    def read(file: Any, *_: Any, **__: Any) -> dict[str, Any]:
        path = str(getattr(file, "name", file))
        found = dict(given[path] if path in given else load(path))
        state = found.get("task_state") or {}  # dictionaries in it are stand-ins; tasks make theirs
        plain_items = {key: value for key, value in state.items() if is_plain(value)}
        return {**found, "task_state": plain_items}

    before = torch.load
    torch.load = read  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before
