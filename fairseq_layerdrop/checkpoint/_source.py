# SPDX-License-Identifier: MIT
"""Opening: a file becomes the source of everything that is asked of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fairseq_layerdrop.checkpoint._read import digest, load
from fairseq_layerdrop.pruning.source import Source


def open_source(path: str | os.PathLike[str]) -> Source:
    """Read a fairseq checkpoint of any age, and bring it into today's form, once.

    Raises:
        CheckpointError: if the file cannot be read safely.
        ValueError: if it holds no layers, or no options to build a model from.
    """
    found = load(path)
    identity = digest(path)
    with naming_file(path):
        return Source.of(found, path=str(path), digest=identity)


@contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """A scope in which an error about a file's content names the file.

    Raises:
        ValueError: what was raised, the file's name in front.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
