# SPDX-License-Identifier: MIT
"""What stands in the way of ``--user-dir`` and of fairseq's own checkpoints and tasks.

Registering the models patches the first two.
"""

import argparse
import os
from typing import Any

import numpy
import torch
from fairseq.data import Dictionary

import fairseq_layerdrop


class _ResolvedPaths(list[str]):
    """The package's paths, compared after resolving links."""

    def __contains__(self, path: object) -> bool:
        return super().__contains__(path) or os.path.realpath(str(path)) in map(
            os.path.realpath, self
        )


def accept_linked_user_dir() -> None:
    """Let ``--user-dir`` be a link to the package. Idempotent.

    fairseq rejects a second ``--user-dir`` unless it is among the package's paths.
    """
    fairseq_layerdrop.__path__ = _ResolvedPaths(fairseq_layerdrop.__path__)


def allow_checkpoint_objects() -> None:
    """Let ``torch.load`` take safely what fairseq writes into checkpoints; none of it runs code.

    These are the options of the optimizer (and of stock ``transformer``) in an
    ``argparse.Namespace``, the arrays of ``--eval-bleu``'s meters, and the dictionaries in the
    task's state of HuBERT.
    """
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            Dictionary,
            numpy.ndarray,
            numpy.dtype,
            numpy._core.multiarray._reconstruct,  # type: ignore[attr-defined]
            *(type(numpy.dtype(name)) for name in ("int64", "float64")),
        ]
    )


def task_options(task: Any) -> Any:
    """A task's options: fairseq's older tasks, language modeling among them, have no ``cfg``."""
    return getattr(task, "cfg", None) or task.args
