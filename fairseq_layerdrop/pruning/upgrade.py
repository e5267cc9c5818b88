# SPDX-License-Identifier: MIT
"""Old checkpoints in today's form, over their full depth: to be called before anything is pruned.

fairseq upgrades keys while it loads, walking the layers of the model that it has built; where that
model is already pruned, the keys of the deeper layers stay old and the load fails. Here nothing has
been built yet.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.pruning.old_options import upgrade_options
from fairseq_layerdrop.pruning.stacks import locate

EMA = ("ema", "ema_fp32_params")
"""Where an extra state holds weights."""

_TIED_BY_FAIRSEQ = re.compile(
    r"(.*\.)?(embed_tokens|output_projection|adaptive_softmax|lm_head)\..*"
)
_STALE_NAME = re.compile(r"(in_proj|out_proj|fc1|fc2)_(weight|bias)")
_NORM_NAME = re.compile(r"layer_norms\.(\d)\.(weight|bias)")
_PROJECTIONS = re.compile(r"(.*_attn)\.in_proj_(weight|bias)")
_DECODER = re.compile(r"((?:models\.[^.]+\.)?decoder)\.(.+)")
_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def is_stale(key: str) -> bool:
    """Whether a key is of those that fairseq 0.12.2 wrote and later versions stop at.

    They are a copy of each encoder layer's weights for a fused kernel, never trained and rebuilt at
    every load. (``self_attn.in_proj_weight`` of 2019 is another thing: the real weight.)
    """
    place = locate(key)
    return (
        place is not None
        and place.stack == "encoder"
        and _STALE_NAME.fullmatch(place.name) is not None
    )


def upgrade_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state dict in today's keys; the same tensors, if it has these already."""
    state = _upgrade_roberta(state)
    upgraded: dict[str, Tensor] = {}
    for key, tensor in state.items():
        upgraded.update(_upgrade_item(key, tensor, state))
    versions = [key for key in state if key.endswith("decoder.version")]
    for decoder in (key.removesuffix(".version") for key in versions):
        output = f"{decoder}.output_projection.weight"
        # A whole model (not its parameters alone, as in an EMA) that lacks it shared it with the
        # input, stored once.
        if output not in upgraded and not _adaptive(state, decoder):
            upgraded[output] = upgraded[f"{decoder}.embed_tokens.weight"]
    return upgraded


def upgrade_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint in today's form.

    Its options are in ``cfg``, in sections: before 2021 they were one Namespace, ``args``. Tensors
    that were one in the model are one again: fairseq saves key by key what is on a GPU or in half
    precision, so that shared embeddings and layers come apart in the file.
    """
    upgraded = upgrade_options(checkpoint)
    share = _option(upgraded.get("cfg"), "share_layers") or 1
    upgraded["model"] = tie(checkpoint["model"], share)
    extra = checkpoint.get("extra_state")
    if isinstance(extra, Mapping):
        weights = {name: tie(extra[name], share) for name in EMA if name in extra}
        upgraded["extra_state"] = {**extra, **weights}
    return upgraded


def tie(state: Mapping[str, Tensor], share_layers: int = 1) -> dict[str, Tensor]:
    """A state dict in which embedding and output matrices that have the same bits are one tensor.

    So are layers with the same bits, among ``share_layers`` neighbours, where the model was built
    to share them.
    """
    tied = dict(state)
    known = dict[tuple[torch.Size, torch.dtype], list[Tensor]]()
    for key, tensor in state.items():
        place = locate(key)
        if place and place.layer % share_layers:
            first = place._replace(layer=place.layer - place.layer % share_layers).key
            candidates = [state[first]] if first in state else []
        elif tensor.dim() == 2 and _TIED_BY_FAIRSEQ.fullmatch(key):
            candidates = known.setdefault((tensor.shape, tensor.dtype), [])
        else:
            continue
        same = next((other for other in candidates if torch.equal(other, tensor)), None)
        if same is None:
            candidates.append(tensor)
        else:
            tied[key] = same
    return tied


def _option(cfg: Any, name: str) -> Any:
    model = cfg.get("model") if isinstance(cfg, Mapping) else None
    options = vars(model) if isinstance(model, Namespace) else model
    return options.get(name) if isinstance(options, Mapping) else None


def _upgrade_roberta(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """RoBERTa of 2019 called its encoder a decoder."""
    if not any(key.startswith("decoder.sentence_encoder.") for key in state):
        return state
    renamed = {re.sub(r"^decoder\.", "encoder.", key): tensor for key, tensor in state.items()}
    return {
        key.replace(".emb_layer_norm.", ".layernorm_embedding."): tensor
        for key, tensor in renamed.items()
    }


def _upgrade_item(
    key: str, tensor: Tensor, state: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """What one key becomes: nothing, itself, another name, or three split projections."""
    if is_stale(key):
        return
    place = locate(key)
    decoder = _DECODER.fullmatch(key)
    if place and (norm := _NORM_NAME.fullmatch(place.name)):
        name = _NORMS[place.stack][int(norm[1])]
        yield place._replace(name=f"{name}.{norm[2]}").key, tensor
    elif projections := _PROJECTIONS.fullmatch(key):
        if tensor.shape[0] % 3:
            raise ValueError(f"{key} must hold three projections, got {tuple(tensor.shape)}")
        for name, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{projections[1]}.{name}_proj.{projections[2]}", part
    # wav2vec2's decoder has an embed_out, too, but no version.
    elif decoder and decoder[2] == "embed_out" and f"{decoder[1]}.version" in state:
        yield f"{decoder[1]}.output_projection.weight", tensor
    elif (
        decoder
        and decoder[2] in ("layer_norm.weight", "layer_norm.bias")
        and _lacks_last_norm(state, decoder[1])
    ):
        return
    else:
        yield key, tensor


def _lacks_last_norm(state: Mapping[str, Tensor], decoder: str) -> bool:
    # fairseq reads a decoder of this version as one without a last norm, regardless of the file,
    # and then stops at the norm's keys. (It did so at version 1 only when such files were written.)
    # LightConv counts otherwise.
    version = state.get(f"{decoder}.version")
    is_transformer = any(key.startswith(f"{decoder}.layers.0.self_attn.") for key in state)
    return version is not None and version.item() <= 2 and is_transformer


def _adaptive(state: Mapping[str, Tensor], decoder: str) -> bool:
    return any(key.startswith(f"{decoder}.adaptive_softmax.") for key in state)
