# SPDX-License-Identifier: MIT
"""Layers with pruned heads, FFN units or sub-layers: shapes that stock models cannot hold.

A configuration's ``layerdrop_shapes`` has for each stack and layer the heads of the self-attention,
those of the attention to the encoder, and the units of the FFN; 0 where there is no such sub-layer
(any more).
"""

import json
from collections.abc import Sequence
from typing import Any, Optional

from torch import nn

from fairseq_layerdrop.models._layers import drop_inside


def reshape(layers: Any, name: str, shapes: str) -> None:
    """Give layers that fairseq built the shapes of a configuration, in place, with new weights.

    Args:
        layers: fairseq's, all of one shape.
        name: ``encoder`` or ``decoder``.
        shapes: the configuration's text.

    Raises:
        ValueError: if it does not have one entry for each layer.
    """
    found = json.loads(shapes)
    if len(found.get(name, [])) != len(layers):
        raise ValueError(
            f"layerdrop_shapes must have the {len(layers)} layers of the {name}, got "
            f"{found.get(name)}"
        )
    for layer, (heads, cross, units) in zip(layers, found[name], strict=True):
        attends = getattr(layer, "encoder_attn", None) is not None
        for part, count in (("self_attn", heads), ("encoder_attn", cross)):
            if count and (part == "self_attn" or attends):
                _shrink_attention(getattr(layer, part), count)
        if units:
            layer.fc1 = _linear_like(layer.fc1, out=units)
            layer.fc2 = _linear_like(layer.fc2, into=units)
        missing = {"self_attn": heads, "ffn": units} | ({"encoder_attn": cross} if attends else {})
        _remove(layer, name, [part for part, count in missing.items() if not count])


def _shrink_attention(attention: Any, heads: int) -> None:
    width = heads * attention.head_dim
    if heads == attention.num_heads:
        return
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, _linear_like(getattr(attention, name), out=width))
    attention.out_proj = _linear_like(attention.out_proj, into=width)
    attention.num_heads = heads
    attention.embed_dim = width
    # fairseq's own way for fewer heads: past torch's fused attention
    attention._set_skip_embed_dim_check()


def _linear_like(linear: Any, *, out: Optional[int] = None, into: Optional[int] = None) -> Any:
    out = out or linear.out_features
    into = into or linear.in_features
    if (out, into) == (linear.out_features, linear.in_features):
        return linear
    return nn.Linear(
        into,
        out,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )


def _remove(layer: Any, name: str, parts: Sequence[str]) -> None:
    if not parts:
        return
    drop_inside(layer, name)
    layer.missing = frozenset(parts)
    for part in parts:
        modules = [part, f"{part}_layer_norm"]
        if part == "ffn":
            modules = ["fc1", "fc2", "final_layer_norm"]
        for module in modules:
            setattr(layer, module, None)
