# SPDX-License-Identifier: MIT
"""The optimizer's state restricted to a plan.

Training then goes on as if the other layers had never been there.

fairseq (``Trainer._build_optimizer``) hands its optimizer ``model.parameters()``: the keys of the
state dict without buffers, in their order, tensors that several keys share counted once, where they
come first. torch numbers them from 0, and nothing in a file says which number is which key. A
file's ``last_optimizer_state`` has one of two layouts:

- *one by one*: ``{"state": {0: {"step": 9, "exp_avg": …}, 1: …}, "param_groups": [{"params":
  [0, 1, …], "lr": …}]}``
- *flat*: one parameter, 0: all of them end to end, without gaps
  (``FP16Optimizer.build_fp32_params``); what --fp16 does, unless --memory-efficient-fp16 or
  --fp16-no-flatten-grads is given (--bf16 never does)
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor

from fairseq_layerdrop.pruning.config import plain
from fairseq_layerdrop.pruning.inspection import is_buffer
from fairseq_layerdrop.pruning.learned_rates import without_gates
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.stacks import prune_state
from fairseq_layerdrop.pruning.upgrade import is_stale, upgrade_state

# Left by fairscale: ZeRO's optimizer (OSS) and fully sharded data parallel number and cut
# parameters in their own way.
_SHARDED = ("partition", "local_state_dict", "param_id_map", "uncollected_local_ids")
# The order in which fairseq's modules have registered their children since 0.10, all levels in one
# list.
_ORDER = [
    *("weight", "bias", "encoder", "decoder", "sentence_encoder", "embed_tokens"),
    *("project_in_dim", "embed_positions", "layernorm_embedding", "emb_layer_norm", "layers"),
    *("layer_norm", "project_out_dim", "adaptive_softmax", "output_projection", "lm_head"),
    *("self_attn", "self_attn_layer_norm", "encoder_attn", "encoder_attn_layer_norm"),
    *("fc1", "fc2", "final_layer_norm", "k_proj", "v_proj", "q_proj", "out_proj"),
]


def prune_optimizer(
    optimizer: Any, state: Mapping[str, Tensor], plan: PruningPlan
) -> dict[str, Any]:
    """The optimizer's state for the pruned model, in stock fairseq's order of parameters.

    What belongs to one parameter (moments, steps) stays its own; what is the whole optimizer's
    (learning rate, loss scale) stays as it is. The stale parameters of fairseq 0.12.2 go, as they
    go from the pruned file.

    Args:
        optimizer: the checkpoint's ``last_optimizer_state``, if it has one; it is not changed, and
            its tensors are copied only where they must be cut.
        state: the checkpoint's ``model`` in the keys of its file; what was one tensor in the model,
            tied again.
        plan: what stays.

    Raises:
        ValueError: where it is not sure what belongs to which parameter of the pruned model.
    """
    _check_form(optimizer)
    _check_keys(state)
    numbers = _number(
        optimizer, {key: tensor for key, tensor in state.items() if not is_buffer(key)}
    )
    current = {key: number for key, number in without_gates(numbers).items() if not is_stale(key)}
    kept = list(dict.fromkeys(prune_state(current, plan).values()))
    sizes = [state[key].numel() for key in _owners(numbers)]
    group = optimizer["param_groups"][0]
    moments = optimizer["state"]
    ids = group["params"]
    if len(ids) < len(sizes):
        small = [_cut(moments[ids[0]], sizes, kept) if moments else {}]
    else:
        small = [_owned(moments.get(ids[number], {})) for number in kept]
    return {
        **plain(optimizer),
        "state": {number: entry for number, entry in enumerate(small) if entry},
        "param_groups": [{**plain(group), "params": list(range(len(small)))}],
    }


def _refusal(rule: str, got: object) -> ValueError:
    return ValueError(f"{rule}, got {got}; leave keep_optimizer= out")


def _check_form(optimizer: Any) -> None:
    """Refuse anything but one optimizer's state over the model's parameters, in torch's form."""
    if not isinstance(optimizer, Mapping):
        raise _refusal("there must be an optimizer's state in the checkpoint", "none")
    if sharded := [name for name in _SHARDED if name in optimizer]:
        raise _refusal(
            "the optimizer's state must be whole", f"a sharded one ({', '.join(sharded)})"
        )
    moments = optimizer.get("state")
    groups = optimizer.get("param_groups")
    if not isinstance(moments, Mapping) or not isinstance(groups, list):
        got = ", ".join(f"{name}: {type(value).__name__}" for name, value in optimizer.items())
        raise _refusal("the optimizer must be one, with a dict state and a list param_groups", got)
    if len(groups) != 1:
        raise _refusal(
            "the optimizer must have one group of parameters, in the model's order", len(groups)
        )
    if foreign := [str(number) for number in moments if number not in groups[0]["params"]]:
        raise _refusal(
            "the optimizer must hold state for its parameters alone",
            f"some for {', '.join(foreign)}",
        )


def _check_keys(state: Mapping[str, Tensor]) -> None:
    """Refuse an older fairseq's model, whose parameters differ from today's in kind or order."""
    if old := upgrade_state(state).keys() ^ {key for key in state if not is_stale(key)}:
        found = next((key for key in state if key in old), f"none for {min(old)}")
        raise _refusal("the model must have the keys that fairseq writes since 0.10", found)
    last: dict[str, str] = {}
    for path in (key.split(".") for key in state):
        for depth, name in enumerate(path):
            parent = ".".join(path[:depth])
            if name in _ORDER:
                if _ORDER.index(name) < _ORDER.index(last.get(parent, name)):
                    got = f"{last[parent]} before {name} in {parent or 'the model'}"
                    raise _refusal(
                        "the model's keys must be in the order of fairseq since 0.10", got
                    )
                last[parent] = name


def _number(optimizer: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """The optimizer's numbers, counted from 0, by key; keys that share a tensor have the same."""
    seen: dict[int, int] = {}
    numbers = {
        key: seen.setdefault(tensor.data_ptr(), len(seen)) for key, tensor in parameters.items()
    }
    _check_fit(optimizer, {key: parameters[key].shape for key in _owners(numbers)})
    return numbers


def _owners(numbers: Mapping[str, int]) -> list[str]:
    """The first key of each number, in the order of the numbers."""
    first: dict[int, str] = {}
    for key, number in numbers.items():
        first.setdefault(number, key)
    return list(first.values())


def _check_fit(optimizer: Mapping[str, Any], shapes: Mapping[str, Size]) -> None:
    """Refuse parameters that cannot be the optimizer's: their number and shapes must agree."""
    ids = optimizer["param_groups"][0]["params"]
    if len(ids) == 1:
        shapes = {
            "all parameters end to end": Size([sum(shape.numel() for shape in shapes.values())])
        }
    if len(ids) != len(shapes):
        rule = (
            f"the optimizer must have each of the model's {len(shapes)} parameters, or one "
            "that is all of them"
        )
        raise _refusal(rule, len(ids))
    for number, (key, shape) in zip(ids, shapes.items(), strict=True):
        for name, value in optimizer["state"].get(number, {}).items():
            _check_value(name, value, key, shape)


def _check_value(name: str, value: Any, key: str, shape: Size) -> None:
    """Refuse what is neither a number nor of the parameter's shape."""
    if isinstance(value, Tensor):
        fits, found = value.shape in (Size(), shape), str(tuple(value.shape))
    else:
        fits, found = isinstance(value, (int, float, type(None))), type(value).__name__
    if not fits:
        rule = f"the optimizer's values for {key} must be numbers or of its shape, {tuple(shape)}"
        raise _refusal(rule, f"{name}: {found}")


def _cut(entry: Mapping[str, Any], sizes: list[int], kept: list[int]) -> dict[str, Any]:
    """The values of a flat parameter without those of the parameters that go."""
    cut = {}
    for name, value in entry.items():
        if isinstance(value, Tensor) and value.dim():
            parts = torch.split(value, sizes)
            value = torch.cat([parts[number] for number in kept])
        cut[name] = value
    return _owned(cut)


def _owned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, no tensor of which holds on to more storage than it shows."""
    owned = {}
    for name, value in entry.items():
        part = (
            isinstance(value, Tensor)
            and value.untyped_storage().nbytes() > value.numel() * value.element_size()
        )
        owned[name] = value.clone() if part else value
    return owned
