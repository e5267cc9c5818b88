# SPDX-License-Identifier: MIT
"""The surgery itself: a plan and a checkpoint's dictionary in, a smaller dictionary out."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from torch import Tensor

from fairseq_layerdrop.pruning.config import (
    in_style,
    is_plain,
    plain,
    stock_config,
    training_rates,
)
from fairseq_layerdrop.pruning.learned_rates import without_gates
from fairseq_layerdrop.pruning.optimizer import prune_optimizer
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.shape_config import config_for_shapes, head_dims
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import (
    check_chunks,
    locate,
    other_lists,
    prune_state,
    stack_depths,
)
from fairseq_layerdrop.pruning.tensors import identity, same_bits
from fairseq_layerdrop.pruning.trained import trained_plans
from fairseq_layerdrop.pruning.upgrade import EMA, upgrade_state
from fairseq_layerdrop.pruning.widths import Widths, narrow, shapes

TRAINING_ONLY_KEYS = ("best", "val_loss", "metrics", "train_meters")
"""Keys of extra_state that describe the source's own training (best score, meters); a pruned or
averaged model must not inherit them.
"""


def prune_checkpoint(
    source: Source,
    plan: PruningPlan,
    *,
    version: str,
    style: str | None = None,
    keep_optimizer: bool = False,
    widths: Widths | None = None,
    compensated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A fairseq checkpoint restricted to a plan: an ordinary, stock one.

    Args:
        source: the full model; it is not changed, and its tensors are not copied.
        plan: what stays; a plan that keeps everything makes a stock checkpoint of one trained with
            this package.
        version: this package's, for the provenance.
        style: of the configuration, see :func:`~fairseq_layerdrop.pruning.config.in_style`.
        widths: what stays inside the layers; these are numbered as in ``source``.
        keep_optimizer: carry the optimizer's state over to the layers that stay; else there is
            none.
        compensated: what was done to the source's layers to make up for those that go, for the
            provenance.

    Raises:
        ValueError: if the plan is for other depths, parts layers that share their weights or
            removes the layer of the alignment, or if the optimizer's state cannot be carried over.
    """
    full, model = source.checkpoint, source.options
    _check_depths({**other_lists(source.weights), **source.depths}, plan)
    check_chunks(source.weights, plan)
    if keep_optimizer and widths:
        raise ValueError(
            "the optimizer's state of layers that get other shapes cannot be kept; leave it out"
        )

    def cut(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return compact(
            prune_state(narrow(weights, head_dims(model), widths) if widths else weights, plan)
        )

    cfg, small = stock_config(full["cfg"], plan), cut(source.weights)
    if widths or model.get("layerdrop_shapes"):
        missing = bool(model.get("layerdrop_shapes") or (widths and widths.without))
        cfg = config_for_shapes(cfg, shapes(small, head_dims(model)), missing=missing)
    extra = _extra_state(full.get("extra_state") or {}, cut)
    step = {"source": source.digest, "plan": plan.to_json(), "version": version}
    step |= {"inside": widths.to_json()} if widths else {}
    step |= {"compensated": dict(compensated)} if compensated else {}
    task_state = full.get("task_state") or {}
    pruned = {
        "args": None,
        "cfg": in_style(cfg, style),
        "model": small,
        "criterion": plain(full.get("criterion")),
        "optimizer_history": _history(full),
        "task_state": {key: value for key, value in task_state.items() if is_plain(value)},
        "extra_state": extra | {"layerdrop": _provenance(source, step)},
    }
    if keep_optimizer:
        optimizer = full.get("last_optimizer_state")
        pruned["last_optimizer_state"] = prune_optimizer(optimizer, full["model"], plan)
    return pruned


def _provenance(source: Source, step: dict[str, Any]) -> dict[str, Any]:
    """What was done to the original so far, the last step included, and how it was trained."""
    earlier = (source.checkpoint.get("extra_state") or {}).get("layerdrop")
    earlier = earlier or {"steps": [], "rates": training_rates(source.options)}
    found = {"rates": earlier["rates"], "steps": [*earlier["steps"], step]}
    trained = trained_plans(source.checkpoint)
    return found | ({"trained_plans": trained} if trained else {})


def _check_depths(depths: Mapping[str, int], plan: PruningPlan) -> None:
    if wrong := [
        stack for stack, chosen in plan.selections.items() if chosen.depth != depths.get(stack)
    ]:
        planned = {stack: plan.selections[stack].depth for stack in wrong}
        raise ValueError(
            f"the plan must be for the model's depths, {depths}, got one for {planned}"
        )


def _history(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What fairseq reads the number of updates from; the oldest files held the optimizer too."""
    nothing: dict[str, Any] = {"optimizer_name": None, "lr_scheduler_state": {}}
    history = plain(checkpoint.get("optimizer_history")) or [nothing]
    entries = [{"num_updates": 0, **entry} for entry in history]
    for entry in entries:
        entry.pop("optimizer", None)
    return entries


def _extra_state(
    extra: Mapping[str, Any], cut: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Any]:
    """What holds for the pruned model, too; the EMA's weights are pruned alike."""
    small = {key: plain(value) for key, value in extra.items() if key not in TRAINING_ONLY_KEYS}
    for name in small.keys() & set(EMA):
        small[name] = cut(without_gates(upgrade_state(small[name])))
    return small


def compact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the storage that they do not show; ties stay ties."""
    copies: dict[Hashable, Tensor] = {}
    small = {}
    for key, tensor in state.items():
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            if identity(tensor) not in copies:
                copies[identity(tensor)] = tensor.clone()
            tensor = copies[identity(tensor)]
        small[key] = tensor
    return small


class NotThatModel(ValueError):
    """What was written is not the model that it was cut from, or none that fairseq loads."""


def check_surgery(
    weights: Mapping[str, Tensor],
    written: Mapping[str, Tensor],
    plan: PruningPlan,
    inside: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Compare the written model with its source, independently of how it was made.

    Each layer must have the keys of the layer it came from, and every tensor its bits; everything
    outside the layers must be there, and tensors that were one must still be.

    Args:
        weights: the source's, in today's keys: :attr:`Source.weights`.
        written: the state dict that the written file holds.
        plan: the layers that stay.
        inside: what was done to the source inside its layers.

    Raises:
        ValueError: naming everything that differs.
    """
    source, others = inside(dict(weights)), dict(plan.others)
    kept = PruningPlan.everything(stack_depths(source)).kept | plan.kept
    places = {key: locate(key, others) for key in source}
    origins = {key: key for key, place in places.items() if not place}
    for place in filter(None, places.values()):
        for new, old in enumerate(kept[place.stack]):
            if old == place.layer:
                origins[place._replace(layer=new).key] = place.key
    wrong = sorted(origins.keys() ^ written.keys())
    wrong += [
        key
        for key in origins.keys() & written.keys()
        if not same_bits(source[origins[key]], written[key])
    ]
    if wrong:
        raise ValueError(
            f"what was written differs from its source in {', '.join(wrong)}; nothing was kept"
        )
    if _elements(prune_state(source, plan).values()) < _elements(written.values()):
        raise ValueError("what was written lost ties between tensors; nothing was kept")


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum({t.data_ptr(): t.numel() for t in tensors}.values())
