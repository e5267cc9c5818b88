# SPDX-License-Identifier: MIT
"""Registration of the models. ``--user-dir`` imports this package, then each file that has no
leading ``_``.
"""

import argparse
import os

import numpy
import torch
from fairseq.data import Dictionary

import fairseq_layerdrop
from fairseq_layerdrop import distributed

distributed.mend()


class _Places(list):
    """Where the package lies: fairseq asks whether a second --user-dir is among them, and a link to
    one of them is.
    """

    def __contains__(self, path):
        return super().__contains__(path) or os.path.realpath(path) in map(os.path.realpath, self)


fairseq_layerdrop.__path__ = _Places(fairseq_layerdrop.__path__)

# Things in fairseq's checkpoints that torch >= 2.6 refuses, none of which runs anything: the
# options of the optimizer (and of stock `transformer`) in an argparse.Namespace, the arrays of
# --eval-bleu's meters, and the dictionaries in the task's state of HuBERT.
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
