# SPDX-License-Identifier: MIT
"""How much the loss depends on each attention head and each FFN unit: gradient times weight, on a few batches.

With a mask of ones on a head's (or unit's) output, the derivative of the loss by the mask is the sum of
gradient × weight over the columns that read it; its absolute value, averaged over batches, is the head's importance
(Michel et al. 2019, section 4.1, "Are Sixteen Heads Really Better than One?"; Molchanov et al. 2017 for units).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from fairseq import checkpoint_utils, utils

import fairseq_layerdrop
from fairseq_layerdrop.pruning.stacks import locate

STRUCTURES = ("head", "ffn")
_ATTENTION = re.compile(r"(.+\.layers\.\d+)\.(self_attn|encoder_attn)")
_LAYER = re.compile(r".+\.layers\.\d+")


def gradient_scores(
    data: str,
    path: str,
    *,
    structures: Iterable[str] = STRUCTURES,
    subset: str = "valid",
    batches: int = 8,
    max_sentences: int = 32,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[dict[str, list[float]], int]:
    """The importance of heads and units by their path, and the number of sentences that it was measured on.

    Args:
        data: the data set's folder; the task is the checkpoint's own.
        path: the checkpoint.
        structures: of :data:`STRUCTURES`.
        subset: of the data; none that a result is reported on.
        batches: how many, from the beginning.
        max_sentences: of a batch.
        progress: wraps the batches, to show how far it is.

    Raises:
        ValueError: if the subset has no sentence.
    """
    fairseq_layerdrop.register()
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], {"data": data})
    model.eval()
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset(subset)
    iterator = task.get_batch_iterator(
        task.dataset(subset), max_sentences=max_sentences, max_positions=_positions(task, model), seed=1
    ).next_epoch_itr(shuffle=False)
    samples = [sample for sample, _ in zip(iterator, range(batches), strict=False) if sample]
    sentences = sum(len(sample["id"]) for sample in samples)
    if not sentences:
        raise ValueError(f"the importance needs sentences, got none in {subset} of {data}")
    readers = dict(_readers(model, set(structures)))
    totals = {name: torch.zeros(groups, dtype=torch.float64) for name, (_, groups) in readers.items()}
    for sample in progress(samples):
        model.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()
        for name, (weight, groups) in readers.items():
            if weight.grad is not None:
                effect = (weight.grad * weight).sum(0).double().view(groups, -1).sum(1)
                totals[name] += effect.abs() / len(samples)
    return {name: total.tolist() for name, total in totals.items()}, sentences


def _positions(task: Any, model: Any) -> Any:
    return utils.resolve_max_positions(task.max_positions(), model.max_positions())


def _readers(model: Any, structures: set[str]) -> Iterator[tuple[str, tuple[torch.Tensor, int]]]:
    """The matrix that reads the heads of each attention, or the units of each FFN, and how many there are."""
    for name, module in model.named_modules():
        attention = _ATTENTION.fullmatch(name)
        if attention and "head" in structures and locate(f"{name}.q_proj.weight"):
            yield name, (module.out_proj.weight, module.num_heads)
        reads = getattr(module, "fc2", None) if _LAYER.fullmatch(name) else None
        if reads is not None and "ffn" in structures and locate(f"{name}.fc1.weight"):
            yield f"{name}.ffn", (reads.weight, reads.in_features)
