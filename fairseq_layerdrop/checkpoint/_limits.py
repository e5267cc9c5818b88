# SPDX-License-Identifier: MIT
"""What a small file may not do: grow large in memory, or nest without end."""

import argparse
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from fairseq_layerdrop.checkpoint._errors import CheckpointError
from fairseq_layerdrop.checkpoint._pickles import entries
from fairseq_layerdrop.checkpoint._stand_ins import HOLDING, StandIn

DEEPEST = 60
MOST = 5_000_000
"""Values, each counted where it is referred to: a billion can be written in a hundred bytes by
reference.
"""


def check_archive(path: Path) -> None:
    """Refuse an archive whose entries are larger than the file: torch writes them uncompressed.

    Raises:
        CheckpointError: naming the entry.
    """
    left = path.stat().st_size
    try:
        found = entries(path)
    except CheckpointError:
        return  # the reader says what is wrong with it
    for entry in found:
        left -= entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or left < 0:
            raise CheckpointError(
                f"{path} is refused: its entry {entry.filename} unpacks to more than is stored; "
                "torch writes none such"
            )


def check_content(checkpoint: Any, path: Path) -> None:
    """Refuse what nothing that walks through a checkpoint could bear.

    Raises:
        CheckpointError: if it is nested too deeply, refers to too much, or a tensor shows more than
        it stores.
    """
    # Of each container: how many values are in it, and how deep.
    extents: dict[int, tuple[int, int]] = {}

    def extent(value: Any, depth: int) -> tuple[int, int]:
        if isinstance(value, torch.Tensor):
            _check_tensor(value, path)
        parts = _parts(value)
        if not parts:
            return 1, 0
        if id(value) not in extents:
            inner = (
                [extent(part, depth + 1) for part in parts] if depth < DEEPEST else [(0, DEEPEST)]
            )
            extents[id(value)] = (
                1 + sum(size for size, _ in inner),
                1 + max(height for _, height in inner),
            )
        size, height = extents[id(value)]
        if size > MOST or height > DEEPEST:
            raise CheckpointError(
                f"{path} is refused: what it holds is nested too deeply, or refers to itself"
            )
        return size, height

    extent(checkpoint, 0)


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, argparse.Namespace):
        return vars(value).values()
    if isinstance(value, StandIn) and isinstance(value.state, dict):
        return [value.state[held] for held in HOLDING if held in value.state]
    return ()


def _check_tensor(tensor: torch.Tensor, path: Path) -> None:
    if (
        tensor.layout == torch.strided
        and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise CheckpointError(
            f"{path} is refused: it holds a tensor of shape {tuple(tensor.shape)}, which shows "
            "more than is stored"
        )
