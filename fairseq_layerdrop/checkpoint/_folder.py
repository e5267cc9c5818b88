# SPDX-License-Identifier: MIT
"""Writing a folder: whole, or not at all."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairseq_layerdrop.checkpoint._errors import CheckpointError


def check_folder(path: str | os.PathLike[str], *, ours: re.Pattern[str], force: bool) -> None:
    """Refuse a target before any work is done for it.

    Args:
        path: the folder to be.
        ours: the names of the files that it may hold if it is to be replaced; a folder with another
            one never is.
        force: replace a folder that is there.

    Raises:
        CheckpointError: saying what is in the way.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"the output {path} is a file; name a folder that is not there yet")
    if path.exists() and not force:
        raise CheckpointError(
            f"the output {path} exists; name another folder, or replace it with force=True"
        )
    files = (item.relative_to(path).as_posix() for item in path.rglob("*") if not item.is_dir())
    if strange := next((name for name in files if not ours.fullmatch(name)), None):
        raise CheckpointError(
            f"the output {path} holds {strange}, which no export wrote; name another folder"
        )
    parent = path.resolve().parent
    if not parent.is_dir():
        raise CheckpointError(f"there is no directory {parent} for the output; make it first")
    if not os.access(parent, os.W_OK):
        raise CheckpointError(f"no permission to write in {parent}")


@contextmanager
def new_folder(
    path: str | os.PathLike[str], *, ours: re.Pattern[str], force: bool
) -> Iterator[Path]:
    """A scratch folder beside the target; in the end its ``new`` takes the target's name.

    Its own name is always the same, so that what a killed process left is cleared away by the next.

    Raises:
        CheckpointError: if the target is there already, or another process is writing it.
    """
    check_folder(path, ours=ours, force=force)
    path = Path(path).resolve()
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.mkdir(exist_ok=True)
    with alone_in(scratch, writing=path) as lock:
        if not scratch.exists() or os.fstat(lock).st_ino != scratch.stat().st_ino:
            raise CheckpointError(f"another process has just written {path}")
        try:
            _clear(scratch)
            yield scratch
            _sync(scratch / "new")
            check_folder(path, ours=ours, force=force)
            _exchange(scratch, path)
        finally:
            shutil.rmtree(scratch)


@contextmanager
def alone_in(folder: Path, *, writing: Path) -> Iterator[int]:
    """A scope in which no other process is in it with a folder, whose descriptor it gives.

    Raises:
        CheckpointError: if one is, naming what it writes.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"another process is writing {writing}") from None
        yield lock
    finally:
        os.close(lock)


def _exchange(scratch: Path, path: Path) -> None:
    old = path.rename(scratch / "old") if path.exists() else None
    try:
        (scratch / "new").rename(path)
    except OSError:
        if old:
            old.rename(path)
        raise


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
