# SPDX-License-Identifier: MIT
"""Writing: whole and checked, or not at all."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from fairseq_layerdrop.checkpoint._errors import CheckpointError
from fairseq_layerdrop.checkpoint._shards import check_name


def save(
    checkpoint: dict[str, Any],
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    check: Callable[[Path], None] = lambda written: None,
) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        checkpoint: what to write.
        path: where to.
        force: replace a file that is there.
        check: called with the temporary file before it takes the target's name; what it raises
            stops that.

    Raises:
        CheckpointError: if the file is there already, or another process is writing it.
    """
    path = Path(path)
    check_target(path, force=force)
    with _naming(path), _temporary_beside(path) as (temporary, file):
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's archive writer hides the reason when a write fails
            raise _write_error(error, path) from error
        file.flush()
        with ThreadPoolExecutor(1) as disk:  # the check reads while the disk writes
            synced = disk.submit(os.fsync, file.fileno())
            check(temporary)
            synced.result()
        check_target(path, force=force)
        os.replace(temporary, path)
    _sync_folder(path.parent)


def check_target(
    path: str | os.PathLike[str], *, source: str | os.PathLike[str] | None = None, force: bool
) -> None:
    """Refuse a target before any work: the input itself, an existing file, a missing folder."""
    path = Path(path)
    check_name(path)
    if source is not None and path.exists() and path.samefile(source):
        raise CheckpointError(f"the output {path} is the input itself; name another file")
    if path.is_dir():
        raise CheckpointError(f"the output {path} is a directory; name a file in it")
    if path.exists() and not force:
        raise CheckpointError(
            f"the output {path} exists; name another file, or replace it with force=True"
        )
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no directory {path.parent} for the output; make it first")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"no permission to write in {path.parent.absolute()}")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """System errors name the file; that of a full disk does not, wherever it strikes."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


@contextmanager
def _temporary_beside(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A locked file in the target's folder, gone at the end unless it was renamed.

    Its name is always the same, so that what a killed process left is overwritten by the next.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"another process is writing {path}") from None
        if not temporary.exists() or os.fstat(file.fileno()).st_ino != temporary.stat().st_ino:
            raise CheckpointError(f"another process has just written {path}")
        file.truncate(0)
        try:
            yield temporary, file
        finally:
            if temporary.exists() and os.fstat(file.fileno()).st_ino == temporary.stat().st_ino:
                temporary.unlink()


def _write_error(error: Exception, path: Path) -> Exception:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return cause
    usage = os.statvfs(path.parent)
    if usage.f_bavail * usage.f_frsize < 1 << 20:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return CheckpointError(f"{path} could not be written: {str(error).splitlines()[0]}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
