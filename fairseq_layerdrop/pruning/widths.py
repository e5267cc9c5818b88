# SPDX-License-Identifier: MIT
"""Pruning inside layers: which heads, FFN units and sub-layers stay, and their matrices.

What is inside a layer is named by its path: ``encoder.layers.3.self_attn``, ``….encoder_attn``,
``….ffn``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.stacks import locate

ATTENTIONS = ("self_attn", "encoder_attn")
SUBLAYERS = (*ATTENTIONS, "ffn")
_NORMS = {
    "self_attn": "self_attn_layer_norm",
    "encoder_attn": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}
_SUBLAYER = re.compile(r"(encoder|decoder):(\d+)\.(self_attn|encoder_attn|ffn)")


@dataclass(frozen=True)
class Widths:
    """What stays inside the layers: indices of heads and FFN units, by path; removed sub-layers."""

    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    without: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        kept = {path: list(indices) for path, indices in (*self.heads.items(), *self.units.items())}
        return {"kept": kept, "without": sorted(self.without)}


def parse_sublayers(text: str, paths: Mapping[str, str]) -> frozenset[str]:
    """The paths of ``encoder:3.ffn,decoder:0.encoder_attn``.

    Args:
        text: layers are numbered as in the model that is pruned.
        paths: where the stacks are: ``{"encoder": "encoder.layers"}``.
    """
    found = set()
    for item in text.split(","):
        match = _SUBLAYER.fullmatch(item.strip())
        if not match or match[1] not in paths:
            raise ValueError(
                f"a sub-layer is like encoder:3.ffn or decoder:0.encoder_attn, got {item.strip()!r}"
            )
        found.add(f"{paths[match[1]]}.{match[2]}.{match[3]}")
    return frozenset(found)


def sublayers(state: Iterable[str]) -> dict[str, None]:
    """The paths of all sub-layers that a model has, in order."""
    places = (place for place in map(locate, state) if place)
    names = (
        (f"{at.path}.{at.layer}", "ffn" if at.name.startswith("fc1.") else at.name.split(".")[0])
        for at in places
    )
    return {f"{layer}.{name}": None for layer, name in names if name in SUBLAYERS}


def how_many(asked: str, total: int) -> int:
    """``4`` of 16 heads are 4, ``0.3`` of them 5: at least one, at most all.

    Raises:
        ValueError: unless it is a number from 0 to the total.
    """
    try:
        value = float(asked)
    except ValueError:
        value = -1.0
    share = "." in asked
    if not 0 < value <= (1 if share else total):
        raise ValueError(f"what stays is a number up to {total}, or a share like 0.5, got {asked}")
    return max(round(value * total) if share else int(value), 1)


def choose(
    state: Mapping[str, Tensor],
    head_dims: Mapping[str, int],
    *,
    heads: str | None = None,
    ffn: str | None = None,
    without: frozenset[str] = frozenset(),
    scores: Mapping[str, list[float]] | None = None,
) -> Widths:
    """Choose the most important heads and FFN units of every layer.

    Args:
        state: the model's state dict, in today's keys.
        head_dims: the dimension of a head, by stack.
        heads: how many heads of each attention stay, or which share of them.
        ffn: how many units of each FFN stay, or which share of them.
        without: the paths of sub-layers that go as a whole.
        scores: the importance of each head or unit by path; else their magnitude.

    Raises:
        ValueError: if a sub-layer is not there, or a number does not fit.
    """
    there = sublayers(state)
    if unknown := sorted(without - there.keys()):
        raise ValueError(
            f"there is no {', '.join(unknown)} in the model, or it is removed with its layer"
        )
    left = [path for path in there if path not in without]
    attentions = [path for path in left if not path.endswith(".ffn")] if heads else []
    units = [path for path in left if path.endswith(".ffn")] if ffn else []
    scores = scores if scores is not None else _magnitudes(state, head_dims, [*attentions, *units])
    if missing := [path for path in (*attentions, *units) if path not in scores]:
        raise ValueError(f"the importance of {', '.join(missing)} is not known")
    return Widths(
        {
            path: _best(scores[path], how_many(heads or "", len(scores[path])))
            for path in attentions
        },
        {path: _best(scores[path], how_many(ffn or "", len(scores[path]))) for path in units},
        without,
    )


def narrow(
    state: Mapping[str, Tensor], head_dims: Mapping[str, int], widths: Widths
) -> dict[str, Tensor]:
    """The state dict with smaller matrices; biases behind the sums (``out_proj``, ``fc2``) stay."""
    small: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place = locate(key)
        if place is None:
            small[key] = tensor
            continue
        layer = f"{place.path}.{place.layer}"
        part = place.name.split(".")[0]
        path = f"{layer}.{'ffn' if part in ('fc1', 'fc2') else part}"
        if path in widths.without or any(
            f"{layer}.{s}" in widths.without for s, norm in _NORMS.items() if norm == part
        ):
            continue
        if path in widths.heads:
            tensor = _cut(tensor, place.name, _rows(widths.heads[path], head_dims[place.stack]))
        elif path in widths.units:
            tensor = _cut(tensor, place.name, torch.tensor(widths.units[path]))
        small[key] = tensor
    return small


def shapes(state: Mapping[str, Tensor], head_dims: Mapping[str, int]) -> dict[str, list[list[int]]]:
    """Each layer's numbers of heads of both attentions and of FFN units; 0 for none."""
    found: dict[str, dict[int, dict[str, int]]] = {}
    for key, tensor in state.items():
        if place := locate(key):
            layer = found.setdefault(place.stack, {}).setdefault(place.layer, {})
            attention, _, rest = place.name.partition(".")
            if rest == "q_proj.weight":
                layer[attention] = tensor.shape[0] // head_dims[place.stack]
            elif place.name == "fc1.weight":
                layer["ffn"] = tensor.shape[0]
    numbers: dict[str, list[list[int]]] = {}
    for stack, layers in found.items():
        inside = [layers[index] for index in sorted(layers)]
        numbers[stack] = [[layer.get(part, 0) for part in SUBLAYERS] for layer in inside]
    return numbers


def _magnitudes(
    state: Mapping[str, Tensor], head_dims: Mapping[str, int], paths: list[str]
) -> dict[str, list[float]]:
    """The sum of absolute weights of each head (four projections) or unit (two matrices)."""
    found = {}
    for path in paths:
        layer, part = path.rsplit(".", 1)
        if part == "ffn":
            total = state[f"{layer}.fc1.weight"].abs().sum(1) + state[
                f"{layer}.fc2.weight"
            ].abs().sum(0)
        else:
            rows = [state[f"{path}.{name}_proj.weight"].abs().sum(1) for name in "qkv"]
            total = torch.stack([*rows, state[f"{path}.out_proj.weight"].abs().sum(0)]).sum(0)
            place = locate(f"{path}.q_proj.weight")
            assert place is not None
            total = total.view(-1, head_dims[place.stack]).sum(1)
        found[path] = total.tolist()
    return found


def _best(scores: list[float], count: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]))


def _rows(heads: tuple[int, ...], size: int) -> Tensor:
    return (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()


def _cut(tensor: Tensor, name: str, kept: Tensor) -> Tensor:
    """What a projection keeps: rows going into heads or units, columns coming out of them."""
    if name.endswith(("out_proj.weight", "fc2.weight")):
        return tensor[:, kept]
    return tensor if name.endswith(("out_proj.bias", "fc2.bias")) else tensor[kept]
