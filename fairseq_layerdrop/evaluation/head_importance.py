# SPDX-License-Identifier: MIT
"""How much the loss depends on each attention head and FFN unit: gradient times weight.

With a mask of ones on a head's (or unit's) output, the derivative of the loss by the mask is the
sum of gradient × weight over the columns that read it; its absolute value, averaged over batches,
is the head's importance (Michel et al. 2019, section 4.1, "Are Sixteen Heads Really Better than
One?"; Molchanov et al. 2017 for units).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.pruning.stacks import locate

STRUCTURES = ("head", "ffn")
_ATTENTION = re.compile(r"(.+\.layers\.\d+)\.(self_attn|encoder_attn)")
_LAYER = re.compile(r".+\.layers\.\d+")


def gradient_scores(
    loaded: Loaded,
    samples: Sequence[Any],
    *,
    structures: Iterable[str] = STRUCTURES,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, list[float]]:
    """The importance of heads and units by their path.

    Args:
        loaded: the model and its criterion.
        samples: the batches; not those that results are reported on.
        structures: of :data:`STRUCTURES`.
        progress: wraps the batches, for a progress bar.
    """
    readers = dict(_readers(loaded.model, set(structures)))
    totals = {
        name: torch.zeros(groups, dtype=torch.float64) for name, (_, groups) in readers.items()
    }
    for weight, _ in readers.values():
        weight.requires_grad_(True)
    for sample in progress(samples):
        loaded.model.zero_grad()
        loss, size, _ = loaded.criterion(loaded.model, sample)
        (loss / size).backward()
        for name, (weight, groups) in readers.items():
            if weight.grad is not None:
                effect = (weight.grad * weight).sum(0).double().view(groups, -1).sum(1)
                totals[name] += effect.abs().cpu() / len(samples)
    return {name: total.tolist() for name, total in totals.items()}


def _readers(model: Any, structures: set[str]) -> Iterator[tuple[str, tuple[torch.Tensor, int]]]:
    """The matrix that reads each attention's heads or each FFN's units, and their number."""
    for name, module in model.named_modules():
        attention = _ATTENTION.fullmatch(name)
        if attention and "head" in structures and locate(f"{name}.q_proj.weight"):
            yield name, (module.out_proj.weight, module.num_heads)
        reads = getattr(module, "fc2", None) if _LAYER.fullmatch(name) else None
        if reads is not None and "ffn" in structures and locate(f"{name}.fc1.weight"):
            yield f"{name}.ffn", (reads.weight, reads.in_features)
