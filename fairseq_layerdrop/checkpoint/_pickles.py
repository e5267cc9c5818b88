# SPDX-License-Identifier: MIT
"""What a file's pickles name, read without running any of it."""

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairseq_layerdrop.checkpoint._errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def is_zip(path: Path) -> bool:
    """Whether a file has the format that torch writes since version 1.6."""
    with open(path, "rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """An archive's directory.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception as error:  # arbitrary bytes: zipfile raises what it meets
        raise CheckpointError(f"{path} is damaged: {str(error).lower()}") from None


def named_objects(path: Path) -> Iterator[str]:
    """The functions and classes that a file's pickles name, in today's spelling. Runs nothing."""
    pushed: list[str] = [""]  # the strings that were pushed, and "" for every other operation
    memo: dict[int, str] = {}
    try:
        for opcode, argument in _pickle_operations(path):
            if opcode.endswith("GET"):
                pushed.append(memo.get(int(argument), ""))
            elif opcode == "MEMOIZE" or opcode.endswith("PUT"):
                memo[len(memo) if opcode == "MEMOIZE" else int(argument)] = pushed[-1]
            elif opcode in ("GLOBAL", "INST", "STACK_GLOBAL"):
                name = (
                    ".".join(pushed[-2:]) if opcode == "STACK_GLOBAL" else _of_today(str(argument))
                )
                if _NAME.fullmatch(name):
                    yield name
                pushed.append("")
            else:
                pushed.append(str(argument) if opcode.endswith(("UNICODE", "STRING")) else "")
    except Exception:  # arbitrary bytes: what was named until here is what there is to say
        return


def _of_today(argument: str) -> str:
    module, _, name = argument.partition(" ")
    return ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def _pickle_operations(path: Path) -> Iterator[tuple[str, Any]]:
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            for name in names:
                with archive.open(name) as file:
                    yield from (
                        (opcode.name, argument) for opcode, argument, _ in pickletools.genops(file)
                    )
    else:
        with open(path, "rb") as file:
            while True:  # the old format is several pickles in a row
                yield from (
                    (opcode.name, argument) for opcode, argument, _ in pickletools.genops(file)
                )
