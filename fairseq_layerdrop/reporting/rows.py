# SPDX-License-Identifier: MIT
"""Rows of results in JSON Lines: written as they come, recognised by their signature."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

Row = dict[str, Any]


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> list[Row]:
    """All rows of some files, in order.

    Raises:
        ValueError: naming the file and line that is not a JSON object.
    """
    return [row for path in map(Path, paths) for row in parse_rows(path.read_bytes(), path)]


def parse_rows(content: bytes, path: str | os.PathLike[str]) -> list[Row]:
    """The rows in a file's content; the path is for the error.

    Raises:
        ValueError: naming the file, and the line that is not a JSON object.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: rows are JSON Lines in UTF-8, got other bytes at {error.start}"
        ) from None
    rows: list[Row] = []
    # Not splitlines(): JSON may hold characters that end a line elsewhere.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: a row is a JSON object, got {line[:40]!r}")
        rows.append(row)
    return rows


class RowFile:
    """A file of rows, appended as they come; the torn last row of a killed run is cut off.

    Nobody else can write it until it is closed, which ``with`` does.

    Args:
        path: of the file.
        origin: how new rows are made; added to each of them.

    Raises:
        ValueError: if the file holds anything else, or another process is writing it.
    """

    def __init__(
        self, path: str | os.PathLike[str], origin: Mapping[str, Any] | None = None
    ) -> None:
        self._origin = dict(origin or {})
        self._file = Path(path).open("a+b")  # noqa: SIM115, it stays open
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path}: another process is adding rows to it; name another file or wait"
            ) from None
        self.rows = self._read(path)
        self._known = {_key(row["signature"]): row for row in self.rows if "signature" in row}

    def _read(self, path: str | os.PathLike[str]) -> list[Row]:
        self._file.seek(0)
        content = self._file.read()
        whole, newline, last = content.rpartition(b"\n")
        if not last or _is_json(last):
            rows = parse_rows(content, path)
            self._file.write(b"\n" if last else b"")
            return rows
        if not (whole or last.startswith(b'{"')):
            raise ValueError(f"{path}: rows are JSON Lines, got {last[:20]!r}; name another file")
        rows = parse_rows(whole + newline, path)
        self._file.truncate(len(content) - len(last))
        return rows

    def find(self, signature: Mapping[str, Any]) -> Row | None:
        """The row with this signature: same signature, same row."""
        return self._known.get(_key(signature))

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, and flush them to the disk."""
        new = [row | self._origin for row in rows]
        try:
            self._file.write(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new).encode("utf-8")
            )
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # a full disk does not name the file
            raise OSError(error.errno, error.strerror, self._file.name) from error
        self.rows += new
        self._known |= {_key(row["signature"]): row for row in new if "signature" in row}

    def close(self) -> None:
        """Close the file, so that others may write it."""
        with suppress(OSError):  # of the bytes that an `add` could not write, which has said so
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _key(signature: Mapping[str, Any]) -> str:
    return json.dumps(signature, sort_keys=True)
