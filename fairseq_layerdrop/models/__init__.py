# SPDX-License-Identifier: MIT
"""Registration of the models. ``--user-dir`` imports this package, then each file that has no leading ``_``."""

import argparse

import torch

# fairseq writes the optimizer's options (and stock `transformer`'s) as an argparse.Namespace, which torch >= 2.6
# refuses to read by default. The class holds attributes and runs nothing.
torch.serialization.add_safe_globals([argparse.Namespace])
