# SPDX-License-Identifier: MIT
"""Rows of results in JSON Lines: written as they come, recognised by their signature."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> list[Row]:
    """All rows of some files, in order.

    Raises:
        ValueError: naming the file and line that is no JSON object.
    """
    rows: list[Row] = []
    for path in map(Path, paths):
        for number, line in enumerate(_lines(path), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: a row is a JSON object, got {line[:40]!r}")
            rows.append(row)
    return rows


def append_row(path: str | os.PathLike[str], row: Row) -> None:
    """Write one row at the end of a file, at once and to the disk."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: rows are JSON Lines in UTF-8, got other bytes at {error.start}") from None
    # splitlines() would also cut at signs that JSON may hold inside a text, such as U+2028
    return text.removesuffix("\n").split("\n") if text else []


def has_row(rows: Iterable[Row], signature: Mapping[str, Any]) -> bool:
    """Whether a row with this signature is there: same signature, same row."""
    return any(row.get("signature") == signature for row in rows)
