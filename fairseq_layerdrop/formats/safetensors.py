# SPDX-License-Identifier: MIT
"""Into safetensors: the weights bit by bit, and the options as JSON."""

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_layerdrop.pruning.config import architecture, model_section, plain
from fairseq_layerdrop.pruning.tensors import identity


def write(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` of a stock checkpoint.

    A tensor that has several names is stored once, under the first; the header's metadata has an
    entry for each of the others, ``{"decoder.embed_tokens.weight":
    "encoder.embed_tokens.weight"}``, as safetensors' own ``save_model`` writes them.

    Raises:
        ValueError: if safetensors cannot hold a tensor.
    """
    from safetensors.torch import save_file

    stored, ties = _ties(checkpoint["model"])
    tensors = {name: tensor.contiguous() for name, tensor in stored.items()}
    try:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", **ties})
    except KeyError as error:
        raise ValueError(f"safetensors cannot hold tensors of type {error}") from error
    cfg = plain(checkpoint["cfg"])
    extra = checkpoint["extra_state"]
    config = {
        "architecture": architecture(model_section(checkpoint)),
        "model": cfg["model"],
        "task": cfg.get("task"),
        "layerdrop": extra["layerdrop"],
    }
    # Options may hold infinities, which are no JSON: they become text.
    config = json.loads(json.dumps(config, default=str), parse_constant=str)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _ties(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and for each further name of one the name under which it is stored."""
    first: dict[Hashable, str] = {}
    ties = {}
    for name, tensor in state.items():
        stored = first.setdefault(identity(tensor), name) if tensor.numel() else name
        if stored != name:
            ties[name] = stored
    return {name: tensor for name, tensor in state.items() if name not in ties}, ties
