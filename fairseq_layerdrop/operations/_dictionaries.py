# SPDX-License-Identifier: MIT
"""Copies of a data set's dictionaries, where a checkpoint's ``from_pretrained`` looks for them."""

import os
from pathlib import Path

from fairseq_layerdrop.reporting.files import write_files

_PATTERNS = ("dict*.txt", "*/dict*.txt")  # of sentence prediction: input0/dict.txt, label/dict.txt


def plan_copies(
    data: str | os.PathLike[str], output: Path, *, force: bool, of: str = "copy_dicts="
) -> dict[Path, Path]:
    """The dictionaries of ``data``, and their places beside the checkpoint ``output``.

    Errors say ``of`` which argument ``data`` is.

    Raises:
        ValueError: if there are none, or another file is in the place of one.
    """
    root = Path(data)
    found = sorted(path for pattern in _PATTERNS for path in root.glob(pattern))
    if not found:
        raise ValueError(
            f"{of}: there must be dictionaries (dict.txt, dict.de.txt, input0/dict.txt), got {data}"
        )
    copies = {path: output.parent / path.relative_to(root) for path in found}
    if output in copies.values():
        raise ValueError(f"{of}: {output} is where a dictionary goes; name another OUT")
    others = [
        target
        for path, target in copies.items()
        if target.exists() and target.read_bytes() != path.read_bytes()
    ]
    if others and not force:
        raise ValueError(
            f"{of}: {others[0]} is another dictionary; name another OUT, or replace it with "
            "force=True"
        )
    return {
        path: target for path, target in copies.items() if not target.exists() or target in others
    }


def copy(copies: dict[Path, Path]) -> None:
    """Copy each file to its place."""
    for path, target in copies.items():
        write_files(target.parent, {target.name: path.read_bytes()})
