# SPDX-License-Identifier: MIT
"""How much memory a forward takes beside the weights."""

import resource
from pathlib import Path
from typing import Any

import torch

from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.evaluation.prefix import Kept
from fairseq_layerdrop.modules.subnetwork import restricted

_RESET_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@torch.no_grad()
def peak_of_forward(loaded: Loaded, kept: Kept, sample: Any) -> int:
    """Bytes that a forward of the restricted model on one batch takes at its peak, beside what was held before.

    On a GPU as torch counts them; on a CPU the growth of the process's peak (Linux resets it for this).
    """
    with restricted(loaded.model, kept):
        loaded.criterion(loaded.model, sample)  # what is made once, at the first call, is no part of it
        if loaded.device.type == "cuda":
            before = torch.cuda.memory_allocated(loaded.device)
            torch.cuda.reset_peak_memory_stats(loaded.device)
            loaded.criterion(loaded.model, sample)
            return torch.cuda.max_memory_allocated(loaded.device) - before
        if _RESET_PEAK.exists():
            _RESET_PEAK.write_text("5")
        before = _peak()
        loaded.criterion(loaded.model, sample)
        return _peak() - before


def _peak() -> int:
    if _STATUS.exists():
        return 1024 * int(_STATUS.read_text().split("VmHWM:")[1].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
