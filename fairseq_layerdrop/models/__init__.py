# SPDX-License-Identifier: MIT
"""Registration of the models. ``--user-dir`` imports this package, then each file that has no leading ``_``."""

import argparse

import numpy
import torch
from fairseq.data import Dictionary

from fairseq_layerdrop import distributed

distributed.mend()

# Things in fairseq's checkpoints that torch >= 2.6 refuses, none of which runs anything: the options of the optimizer
# (and of stock `transformer`) in an argparse.Namespace, the arrays of --eval-bleu's meters, and the dictionaries in the
# task's state of HuBERT.
torch.serialization.add_safe_globals(
    [
        argparse.Namespace,
        Dictionary,
        numpy.ndarray,
        numpy.dtype,
        numpy._core.multiarray._reconstruct,
        *(type(numpy.dtype(name)) for name in ("int64", "float64")),
    ]
)
