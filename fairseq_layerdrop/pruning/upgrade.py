# SPDX-License-Identifier: MIT
"""Old checkpoints in today's form, over their full depth: to be called before anything is pruned.

fairseq upgrades keys while it loads, walking the layers of the model that it has built; where that model is
already pruned, the keys of the deeper layers stay old and the load fails. Here nothing has been built yet.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

# fairseq 0.12.2 wrote a copy of each encoder layer's weights for a fused kernel, never trained and rebuilt at every
# load; later versions stop at the keys. (`self_attn.in_proj_weight` of 2019 is another thing: the real weight.)
STALE_KEY = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")
_NORM = re.compile(r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(weight|bias)")
_PROJECTIONS = re.compile(r"(.*_attn)\.in_proj_(weight|bias)")
_LAST_NORM = re.compile(r"decoder\.layer_norm\.(weight|bias)")
_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def upgrade_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state dict in today's keys; one that has them already comes back with the same tensors."""
    upgraded = {new: value for key, tensor in state.items() for new, value in _upgrade_item(key, tensor, state)}
    output = "decoder.output_projection.weight"
    # A whole model (not its parameters alone, as in an EMA) that lacks it shared it with the input, stored once.
    if "decoder.version" in state and output not in upgraded and not _adaptive(state):
        upgraded[output] = upgraded["decoder.embed_tokens.weight"]
    return upgraded


def upgrade_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint whose options are in ``cfg``, in sections: before 2021 they were one Namespace, ``args``."""
    args = checkpoint.get("args")
    if args is None or checkpoint.get("cfg") is not None:
        return dict(checkpoint)
    options = vars(args)
    data = options.get("data")
    task = {**options, "data": data[0] if isinstance(data, list) and data else data}
    cfg = {
        "model": {**options, "_name": options.get("arch")},
        "task": {**task, "_name": options.get("task", "translation")},
        "criterion": {**options, "_name": options.get("criterion")},
    }
    return {**checkpoint, "args": None, "cfg": cfg}


def _upgrade_item(key: str, tensor: Tensor, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What becomes of one key: nothing, itself, another name, or three projections that were one matrix."""
    if STALE_KEY.fullmatch(key):
        return
    if norm := _NORM.fullmatch(key):
        yield f"{norm[1]}.{_NORMS[norm[2]][int(norm[3])]}.{norm[4]}", tensor
    elif projections := _PROJECTIONS.fullmatch(key):
        if tensor.shape[0] % 3:
            raise ValueError(f"{key} must hold three projections, got {tuple(tensor.shape)}")
        for name, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{projections[1]}.{name}_proj.{projections[2]}", part
    elif key == "decoder.embed_out":
        yield "decoder.output_projection.weight", tensor
    elif _LAST_NORM.fullmatch(key) and (version := state.get("decoder.version")) is not None and version.item() <= 2:
        # fairseq reads a decoder of this version as one without a last norm, whatever the file holds, and then
        # stops at the norm's keys. (It did so at version 1 only when such files were written.)
        return
    else:
        yield key, tensor


def _adaptive(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("decoder.adaptive_softmax.") for key in state)
