# SPDX-License-Identifier: MIT
"""The surgery itself: a plan and a checkpoint's dictionary in, a smaller dictionary out."""

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.config import model_section, plain, stock_config, training_rates
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan
from fairseq_layerdrop.pruning.upgrade import upgrade_checkpoint, upgrade_state

Value = TypeVar("Value")

# Exact prefixes: `.layers.` occurs elsewhere too (adaptors, experts), and what a plan does not name is copied.
_LAYER_KEY = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)")
# What an extra state says of the full model's training does not hold for the pruned one.
_OF_THE_FULL_MODEL = ("best", "val_loss", "metrics", "train_meters")
_WEIGHTS_IN_EXTRA_STATE = ("ema", "ema_fp32_params")


def layer_of(key: str) -> tuple[str, int] | None:
    """The stack and layer that a key of a state dict belongs to: ``("encoder", 3)``, or ``None``."""
    match = _LAYER_KEY.fullmatch(key)
    return (match[1], int(match[2])) if match else None


def stack_depths(state: Iterable[str]) -> dict[str, int]:
    """The depth of each stack in a model's state dict, encoder first: ``{"encoder": 6, "decoder": 6}``.

    Raises:
        ValueError: if there is no stack, or a stack has a gap.
    """
    found: dict[str, set[int]] = {}
    for stack, layer in filter(None, map(layer_of, state)):
        found.setdefault(stack, set()).add(layer)
    if not found:
        raise ValueError("there are no layers in it: no key begins with encoder.layers.N. or decoder.layers.N.")
    for stack, layers in found.items():
        missing = [i for i in range(max(layers)) if i not in layers]
        if missing:
            raise ValueError(f"the {stack} lacks its layers {','.join(map(str, missing))}")
    return {stack: len(found[stack]) for stack in STACKS if stack in found}


def prune_state(state: Mapping[str, Value], plan: PruningPlan) -> dict[str, Value]:
    """A state dict restricted to a plan: kept layers renumbered from 0, every other key copied."""
    new_index = {s: {old: new for new, old in enumerate(sel.kept)} for s, sel in plan.selections.items()}
    small = {}
    for key, value in state.items():
        match = _LAYER_KEY.fullmatch(key)
        if match is None or match[1] not in new_index:
            small[key] = value
        elif int(match[2]) in new_index[match[1]]:
            small[f"{match[1]}.layers.{new_index[match[1]][int(match[2])]}.{match[3]}"] = value
    return small


def prune_checkpoint(
    checkpoint: Mapping[str, Any], plan: PruningPlan, *, source: str, version: str, style: str = "plain"
) -> dict[str, Any]:
    """A fairseq checkpoint restricted to a plan: an ordinary, stock one, without optimizer state.

    Args:
        checkpoint: as fairseq wrote it; it is not changed, and its tensors are not copied.
        plan: what stays; a plan that keeps everything makes a stock checkpoint of one trained with this package.
        source: the digest of the source's file, for the provenance.
        version: this package's, likewise.
        style: of the configuration, see :func:`~fairseq_layerdrop.pruning.config.stock_config`.
    """
    checkpoint = upgrade_checkpoint(checkpoint)
    rates = training_rates(model_section(checkpoint))
    extra = {k: plain(v) for k, v in (checkpoint.get("extra_state") or {}).items() if k not in _OF_THE_FULL_MODEL}
    for name in _WEIGHTS_IN_EXTRA_STATE:
        if name in extra:
            extra[name] = compact(prune_state(upgrade_state(extra[name]), plan))
    earlier = extra.get("layerdrop", {"steps": [], "rates": rates})
    step = {"source": source, "plan": plan.to_json(), "version": version}
    extra["layerdrop"] = {"rates": earlier["rates"], "steps": [*earlier["steps"], step]}
    return {
        "args": None,
        "cfg": stock_config(checkpoint["cfg"], plan, style=style),
        "model": compact(prune_state(upgrade_state(checkpoint["model"]), plan)),
        "criterion": checkpoint.get("criterion"),
        "optimizer_history": plain(checkpoint.get("optimizer_history", [])),
        "task_state": checkpoint.get("task_state", {}),
        "extra_state": extra,
    }


def compact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of which holds on to more storage than it shows; ties stay ties."""
    copies: dict[Hashable, Tensor] = {}
    small = {}
    for key, tensor in state.items():
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            view = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if view not in copies:
                copies[view] = tensor.clone()
            tensor = copies[view]
        small[key] = tensor
    return small


def check_surgery(source: Mapping[str, Tensor], written: Mapping[str, Tensor], plan: PruningPlan) -> None:
    """Compare the written model with its source, independently of how it was made.

    Its keys must be those of the source's first layers (what a stock model of that depth has), every tensor bit
    for bit that of the layer it came from, and tensors that were one must still be.

    Raises:
        ValueError: naming everything that differs.
    """
    source = upgrade_state(source)
    kept = {stack: tuple(range(depth)) for stack, depth in stack_depths(source).items()}
    kept |= plan.kept
    expected = {key for key in source if (at := layer_of(key)) is None or at[1] < len(kept[at[0]])}
    wrong = sorted(expected ^ written.keys())
    for key in expected & written.keys():
        at = layer_of(key)
        origin = key.replace(f".layers.{at[1]}.", f".layers.{kept[at[0]][at[1]]}.", 1) if at else key
        if not _same_bits(source[origin], written[key]):
            wrong.append(key)
    if wrong:
        raise ValueError(f"what was written differs from its source in {', '.join(wrong)}; nothing was kept")
    if _unique_sizes(prune_state(source, plan).values()) != _unique_sizes(written.values()):
        raise ValueError("what was written lost ties between tensors; nothing was kept")


def _same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are equal in type, shape and every bit: to ``torch.equal`` a NaN differs from itself."""
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, two)]
    if all(f.numel() % 8 == 0 and f.storage_offset() % 8 == 0 for f in flat):
        flat = [f.view(torch.int64) for f in flat]  # eight bytes at a time: three times as fast
    return torch.equal(*flat)


def _unique_sizes(tensors: Iterable[Tensor]) -> list[int]:
    return sorted({t.data_ptr(): t.numel() for t in tensors}.values())
