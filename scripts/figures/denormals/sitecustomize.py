# SPDX-License-Identifier: MIT
"""On PYTHONPATH, for trainings on a CPU, those in heal too: numbers below 1e-38 count as 0.

The squared gradients of words that are rarely right are so small, and a CPU takes ten times as long
for such numbers: without this, Adam takes a quarter of an update of the models in small. The
losses are the same in all digits that the log has.
"""

import sys
from pathlib import Path

if {"fairseq-train", "fairseq_cli.train"} & {Path(name).name for name in sys.orig_argv[1:3]}:
    import torch

    torch.set_flush_denormal(True)
