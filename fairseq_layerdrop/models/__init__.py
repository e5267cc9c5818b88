# SPDX-License-Identifier: MIT
"""Registers the models: ``--user-dir`` imports this package, then each file without a ``_``."""

import argparse
import os

import numpy
import torch
from fairseq.data import Dictionary

import fairseq_layerdrop
from fairseq_layerdrop import distributed

distributed.patch_launchers()


class _Places(list[str]):
    """The package's paths, compared after resolving links.

    fairseq rejects a second --user-dir unless it is among them.
    """

    def __contains__(self, path: object) -> bool:
        return super().__contains__(path) or os.path.realpath(str(path)) in map(
            os.path.realpath, self
        )


fairseq_layerdrop.__path__ = _Places(fairseq_layerdrop.__path__)

# Things in fairseq's checkpoints that torch >= 2.6 refuses, none of which runs any code: the
# options of the optimizer (and of stock `transformer`) in an argparse.Namespace, the arrays of
# --eval-bleu's meters, and the dictionaries in the task's state of HuBERT.
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
