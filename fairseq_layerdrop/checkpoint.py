# SPDX-License-Identifier: MIT
"""The one door for checkpoint files: safe to read, atomic to write, cheap to identify.

Reading never executes a pickle. Tensors are mapped, not read: the optimizer's state of a training
checkpoint stays on disk. Writing goes to a temporary file beside the target, which takes the target's
name only when it is whole, on disk and checked.
"""

import argparse
import errno
import fcntl
import hashlib
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

_ZIP_MAGIC = b"PK\x03\x04"


class StandIn:
    """Stands for an object of another library that fairseq saved along: it takes what it is given and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# What fairseq writes beside plain data: options in a Namespace (attributes, nothing that runs), and what training
# statistics hold, which nobody needs afterwards: the arrays of --eval-bleu, the meters of 2019.
_STATISTICS = [
    *(f"numpy.{name}" for name in ("ndarray", "dtype")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "StopwatchMeter", "TimeMeter")),
]
_KNOWN: list[Any] = [argparse.Namespace, *((StandIn, name) for name in _STATISTICS)]
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_HARMLESS = re.compile(
    r"torch\..*|collections\.OrderedDict|argparse\.Namespace|_codecs\.encode|" + "|".join(map(re.escape, _STATISTICS))
)


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint, or written as one; its message is one line for a person."""


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a fairseq checkpoint without running anything that is in it; tensors are mapped from the file.

    Raises:
        CheckpointError: if the file is absent, damaged, no fairseq checkpoint, or would run code.
    """
    path = Path(path)
    mapped = _check_readable(path)
    try:
        with torch.serialization.safe_globals(_KNOWN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, from files that are then refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # the unpickler meets arbitrary bytes: every kind of error is one of the file's
        raise CheckpointError(_explain(path, error)) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError(f"{path} is not a fairseq checkpoint: it has no dictionary named 'model'")
    if not all(isinstance(value, torch.Tensor) for value in checkpoint["model"].values()):
        raise CheckpointError(f"{path} is not a fairseq checkpoint: its 'model' holds something else than tensors")
    return checkpoint


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
        check: called with the temporary file before it takes the target's name; what it raises stops that.

    Raises:
        CheckpointError: if the file is there already, or another process is writing it.
    """
    path = Path(path)
    check_target(path, force=force)
    with _temporary_beside(path) as (temporary, file):
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


def check_target(path: str | os.PathLike[str], *, source: str | os.PathLike[str] | None = None, force: bool) -> None:
    """Refuse a target before any work is done for it: the input itself, a file that is there, no such folder."""
    path = Path(path)
    if source is not None and path.exists() and path.samefile(source):
        raise CheckpointError(f"the output {path} is the input itself; name another file")
    if path.is_dir():
        raise CheckpointError(f"the output {path} is a directory; name a file in it")
    if path.exists() and not force:
        raise CheckpointError(f"the output {path} exists; name another file, or replace it with --force")
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no directory {path.parent} for the output; make it first")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"no permission to write in {path.parent.absolute()}")


def digest(path: str | os.PathLike[str]) -> str:
    """What identifies a checkpoint's content: 32 hexadecimal digits.

    Taken from the archive's own directory (names, sizes, CRCs), so that it costs nothing on gigabytes; the
    old, not zip, format is hashed whole. The file's name does not enter.
    """
    content = hashlib.blake2b(digest_size=16)
    if _is_zip(Path(path)):
        with zipfile.ZipFile(path) as archive:
            for name, size, crc in sorted(
                (i.filename.partition("/")[2], i.file_size, i.CRC) for i in archive.infolist()
            ):
                content.update(f"{name} {size} {crc}\n".encode())
    else:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    return content.hexdigest()


def file_format(path: str | os.PathLike[str]) -> str:
    """``zip``, or ``legacy`` for what torch wrote before version 1.6."""
    return "zip" if _is_zip(Path(path)) else "legacy"


def _check_readable(path: Path) -> bool:
    """Name what can be wrong with a path; return whether its tensors can be mapped."""
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; name a checkpoint in it, e.g. {path / 'checkpoint_best.pt'}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty")
    return _is_zip(path)


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def _explain(path: Path, error: Exception) -> str:
    foreign = sorted(set(_foreign_names(path)))
    if foreign:
        return f"{path} is refused: loading it would run {', '.join(foreign)}, which is no plain data; nothing was run"
    if "central directory" in str(error):
        return f"{path} is damaged: the end of the archive is missing (an incomplete copy or download?)"
    return f"{path} is not a checkpoint that torch can read"


def _foreign_names(path: Path) -> Iterator[str]:
    """The functions and classes that a file's pickles name, beside those of plain checkpoints. Nothing is run."""
    pushed: list[str] = [""]  # the strings that were pushed, and "" for every other operation
    memo: dict[int, str] = {}
    try:
        for opcode, argument in _pickle_operations(path):
            if opcode.endswith("GET"):
                pushed.append(memo.get(int(argument), ""))
            elif opcode == "MEMOIZE" or opcode.endswith("PUT"):
                memo[len(memo) if opcode == "MEMOIZE" else int(argument)] = pushed[-1]
            elif opcode in ("GLOBAL", "INST", "STACK_GLOBAL"):
                name = ".".join(pushed[-2:]) if opcode == "STACK_GLOBAL" else str(argument).replace(" ", ".")
                if _NAME.fullmatch(name) and not _HARMLESS.fullmatch(name):
                    yield name
                pushed.append("")
            else:
                pushed.append(str(argument) if opcode.endswith(("UNICODE", "STRING")) else "")
    except Exception:  # arbitrary bytes: what was named until here is what there is to say
        return


def _pickle_operations(path: Path) -> Iterator[tuple[str, Any]]:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            for name in names:
                with archive.open(name) as file:
                    yield from ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(file))
    else:
        with open(path, "rb") as file:
            while True:  # the old format is several pickles in a row
                yield from ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(file))


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
