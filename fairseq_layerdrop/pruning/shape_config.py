# SPDX-License-Identifier: MIT
"""The configuration of a model pruned inside its layers: stock where that can hold it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.pruning.config import architecture
from fairseq_layerdrop.pruning.plan import STACKS

# Which of our models has the layers of an architecture of fairseq's.
_OURS = {
    r"(layerdrop_)?transformer_lm(_.*)?": "layerdrop_transformer_lm",
    r"(layerdrop_)?transformer(?!_align)(_.*)?": "layerdrop_transformer",
    r"(layerdrop_)?(roberta|xlm)(_.*)?": "layerdrop_roberta",
    r"(layerdrop_)?m?bart(_.*)?": "layerdrop_bart",
}

Shapes = Mapping[str, list[list[int]]]


def head_dims(model: Mapping[str, Any]) -> dict[str, int]:
    """The dimension of an attention head, by stack: pruning heads does not change it.

    Raises:
        ValueError: if the options do not say.
    """
    found = {}
    for stack in STACKS:
        width = model.get(f"{stack}_embed_dim")
        heads = model.get(f"{stack}_attention_heads")
        if width and heads:
            found[stack] = int(width) // int(heads)
    if not found:
        raise ValueError("the configuration does not tell the number of attention heads")
    return found


def _is_stock(model: Mapping[str, Any], stack: str, layers: list[list[int]]) -> bool:
    """Whether stock fairseq can hold the layers of a stack: equal FFNs, no head gone."""
    units = {layer[-1] for layer in layers}
    heads = set().union(*(layer[:-1] for layer in layers)) - {0}
    return len(units) == 1 and heads == {int(model[f"{stack}_attention_heads"])}


def config_for_shapes(cfg: Mapping[str, Any], shapes: Shapes, *, missing: bool) -> dict[str, Any]:
    """The configuration that builds layers of these shapes.

    FFNs that are all alike are stock fairseq's ``ffn_embed_dim``. Fewer heads, unequal FFNs and
    missing sub-layers fairseq's own models cannot hold: these name this package's architecture.

    Args:
        cfg: of the pruned model, as stock fairseq writes one, in plain containers.
        shapes: see :func:`~fairseq_layerdrop.pruning.widths.shapes`.
        missing: whether a sub-layer is gone.

    Raises:
        ValueError: if no architecture of this package has layers of this kind.
    """
    model = dict(cfg["model"])
    if not missing and all(_is_stock(model, stack, layers) for stack, layers in shapes.items()):
        model |= {f"{stack}_ffn_embed_dim": layers[0][-1] for stack, layers in shapes.items()}
        model.pop("layerdrop_shapes", None)
        return {**cfg, "model": model}
    name = architecture(model)
    ours = next((ours for pattern, ours in _OURS.items() if re.fullmatch(pattern, name)), None)
    if ours is None:
        raise ValueError(
            f"no model can hold fewer heads, unequal FFNs or missing sub-layers of {name}"
        )
    model |= {"_name": ours, "arch": ours, "seed": 1, "layerdrop_shapes": json.dumps(shapes)}
    return {**cfg, "model": model}
