# SPDX-License-Identifier: MIT
"""What is in a checkpoint: depths, sizes, rates, provenance, as plain facts."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.config import architecture, plain, training_rates
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import chunks, locate, other_lists
from fairseq_layerdrop.pruning.trained import trained_plans

_BUFFER = re.compile(r".*\.(version|_float_tensor|layerdrop_gate\.activation)")
_EMBEDDING = re.compile(
    r"(.*\.)?(embed_\w+|output_projection|lm_head)\.weight|(.*\.)?embed_(tokens|positions)\..*"
)
_HEAD = re.compile(r"classification_heads\.([^.]+)\..*")


def describe(source: Source) -> dict[str, Any]:
    """The facts of a checkpoint, ready for JSON.

    Parameters count tensors that are shared once, and leave out buffers.
    """
    checkpoint = source.checkpoint
    state = source.state
    sizes = parameter_sizes(state)
    extra = checkpoint.get("extra_state") or {}
    provenance = extra.get("layerdrop")
    return {
        "architecture": architecture(source.options),
        "task": _name(checkpoint["cfg"].get("task")),
        "seed": (checkpoint["cfg"].get("common") or {}).get("seed"),
        "updates": (checkpoint.get("optimizer_history") or [{}])[-1].get("num_updates"),
        "stacks": _stacks(source, sizes, provenance),
        "parameters": {
            "embeddings": sum(n for key, n in sizes.items() if _EMBEDDING.fullmatch(key)),
            "layers": sum(n for key, n in sizes.items() if locate(key)),
            "total": sum(sizes.values()),
        },
        "other_lists": other_lists(state),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in state.values()}),
        "heads": sorted({match[1] for key in state if (match := _HEAD.fullmatch(key))}),
        "optimizer_state": checkpoint.get("last_optimizer_state") is not None,
        "ema": "ema" in extra,
        "trained_plans": trained_plans(checkpoint),
        "provenance": provenance,
    }


def _stacks(
    source: Source, sizes: Mapping[str, int], provenance: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The facts of each stack."""
    shared = chunks(source.state)
    rates = provenance["rates"] if provenance else training_rates(source.options)
    origin = _origin(provenance) if provenance else {}
    return {
        stack: {
            "depth": depth,
            "parameters_per_layer": [_in_layer(sizes, stack, i) for i in range(depth)],
            "layerdrop": rates.get(stack),
            "shared": shared.get(stack, []),
            "layers_of_the_original": origin.get(stack),
        }
        for stack, depth in source.depths.items()
    }


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors that hold a NaN or an infinity; all of them are read."""
    numbers = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    # A sum is not finite if an element is not; that the sum itself ran over is ruled out by a
    # closer look.
    odd = [
        key
        for key, tensor in numbers.items()
        if not torch.isfinite(tensor.sum(dtype=torch.float32))
    ]
    return [key for key in odd if not torch.isfinite(numbers[key]).all()]


def is_buffer(key: str) -> bool:
    """Whether a key of a state dict is one of those that are no parameters."""
    return _BUFFER.fullmatch(key) is not None


def parameter_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of elements of each parameter, under the first key of those that share it.

    Args:
        state: a model's state dict in today's keys.
    """
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for key, tensor in state.items():
        if not is_buffer(key) and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            sizes[key] = tensor.numel()
    return sizes


def _in_layer(sizes: Mapping[str, int], stack: str, layer: int) -> int:
    return sum(
        n
        for key, n in sizes.items()
        if (at := locate(key)) and (at.stack, at.layer) == (stack, layer)
    )


def _name(section: Any) -> str | None:
    section = plain(section)
    return section.get("_name") or section.get("task") if isinstance(section, dict) else section


def _origin(provenance: Mapping[str, Any]) -> dict[str, list[int]]:
    """The original's indices of the layers that are left, through every pruning there was."""
    plans = [PruningPlan.from_json(step["plan"]) for step in provenance["steps"]]
    whole = plans[0]
    for plan in plans[1:]:
        whole = whole.compose(plan)
    return {stack: list(selection.kept) for stack, selection in whole.selections.items()}
