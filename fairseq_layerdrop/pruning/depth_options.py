# SPDX-License-Identifier: MIT
"""The options that depend on a stack's depth, cut with its layers.

Found in fairseq's models: the depth itself, under the names of :data:`_DEPTHS`; lists of one entry
a layer (``encoder_kernel_size_list`` of lightconv and dynamicconv); and options that name layers by
their index, each with a rule of its own.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan

_DEPTHS = {
    "encoder": ("encoder_layers", "encoder_transformer_layers"),
    "decoder": ("decoder_layers", "decoder_transformer_layers", "decoder_num_layers"),
}
"""What the depth of a stack is called; of several, all that are equal to it."""


def check_depths(architecture: str, plan: PruningPlan) -> None:
    """Refuse depths that an architecture of fairseq's cannot have.

    Raises:
        ValueError: naming the rule.
    """
    if re.match("lstm(_|$)", architecture) and "lm" not in architecture and not plan.is_whole:
        raise ValueError(
            "an LSTM's encoder and decoder have the same depth, and its encoder's layers are one "
            "module that cannot be cut: keep all layers"
        )
    depths = {len(selection.kept) for selection in (plan.encoder, plan.decoder) if selection}
    if architecture.startswith("roberta_enc_dec") and len(depths) > 1:
        raise ValueError(
            f"{architecture} builds its decoder as deep as its encoder: keep as many layers of "
            f"both, got {' and '.join(map(str, sorted(depths)))}"
        )


def cut_options(
    section: dict[str, Any], prefix: str, stack: str, selection: LayerSelection
) -> None:
    """Rewrite the depth, and the lists of one entry a layer, for the layers that stay.

    Args:
        section: the options that hold the stack's; changed in place.
        prefix: what the stack's options begin with there, ``encoder_`` or nothing.
        stack: the stack's name, or a list's path.
        selection: the layers that stay.
    """
    depth, kept = selection.depth, selection.kept
    names = [name for name in _DEPTHS.get(stack, ()) if section.get(name) == depth]
    if stack in ("encoder", "decoder"):
        names = names if prefix and names else [f"{prefix}layers"]
    section |= dict.fromkeys(names, len(kept))
    for name, value in section.items():
        if not isinstance(value, (list, tuple)) or len(value) != depth or depth == 1:
            continue
        if prefix and name.startswith(prefix):
            section[name] = type(value)(value[i] for i in kept)


def cut_indices(section: dict[str, Any], stack: str, selection: LayerSelection) -> None:
    """Rewrite the options that name layers of one stack by their index, in place.

    Raises:
        ValueError: if an option names a layer that goes.
    """
    for name, (of_stack, rule) in _RULES.items():
        if section.get(name) is not None and stack == of_stack:
            section[name] = rule(section[name], selection)


def _alignment(layer: Any, selection: LayerSelection) -> Any:
    """The layer whose attention is the alignment (transformer_align) has another index now."""
    if not isinstance(layer, int) or not 0 <= layer < selection.depth:
        return layer
    if layer not in selection.kept:
        raise ValueError(
            f"decoder: the alignment is layer {layer}'s attention, so it must stay; got "
            f"{_join(selection.kept)}"
        )
    return selection.kept.index(layer)


def _last(count: Any, selection: LayerSelection) -> Any:
    """How many of the last layers look at the other speaker (speech_dlm)."""
    first = selection.depth - count
    return sum(layer >= first for layer in selection.kept)


def _first(counts: Any, selection: LayerSelection) -> Any:
    """After how many layers each of Levenshtein's predictions is made: ``6,6,6``."""
    cut = [sum(layer < int(count) for layer in selection.kept) for count in counts.split(",")]
    if 0 in cut:
        raise ValueError(
            f"decoder: a prediction is made after {counts} layers (--early-exit), so one of the "
            f"first of them must stay; got {_join(selection.kept)}"
        )
    return _join(cut)


def _range(bounds: Any, selection: LayerSelection) -> Any:
    """The layers that have adapters (wav2vec2): ``all``, or ``0:12``."""
    if bounds == "all":
        return bounds
    return ":".join(str(sum(i < int(end) for i in selection.kept)) for end in bounds.split(":"))


_RULES: dict[str, tuple[str, Callable[[Any, LayerSelection], Any]]] = {
    "alignment_layer": ("decoder", _alignment),
    "decoder_cross_layers": ("decoder", _last),
    "early_exit": ("decoder", _first),
    "adp_trf_idx": ("encoder", _range),
}
"""Options that name layers: of which stack, and what they become."""


def _join(items: Sequence[Any]) -> str:
    return ",".join(map(str, items))
