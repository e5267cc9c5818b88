# SPDX-License-Identifier: MIT
"""The flags of ``fairseq-train`` that build the model of a configuration, to be pasted."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.pruning.config import architecture
from fairseq_layerdrop.pruning.plan import STACKS

_SIZES = [
    f"{stack}_{size}"
    for stack in ("encoder", "decoder")
    for size in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
]
_VALUES = [
    *("max_source_positions", "max_target_positions", "alignment_layer", "alignment_heads"),
    *("activation_fn", "dropout", "attention_dropout", "activation_dropout"),
    *("pooler_activation_fn", "pooler_dropout"),
]
_VALUES_WITH = {
    "adaptive_softmax_cutoff": (
        "adaptive_softmax_cutoff",
        "adaptive_softmax_dropout",
        "adaptive_softmax_factor",
    ),
    "adaptive_input_cutoff": ("adaptive_input_cutoff", "adaptive_input_factor"),
    "character_embeddings": (
        "character_filters",
        "character_embedding_dim",
        "char_embedder_highway_layers",
    ),
    "quant_noise_pq": ("quant_noise_pq", "quant_noise_pq_block_size"),
    "quant_noise_scalar": ("quant_noise_scalar",),
}
"""What has a value of its own only where another option is set."""
_BOOLEAN_FLAGS = [
    *(
        f"{stack}_{form}"
        for stack in ("encoder", "decoder")
        for form in ("normalize_before", "learned_pos")
    ),
    *("share_decoder_input_output_embed", "share_all_embeddings", "layernorm_embedding"),
    *("no_scale_embedding", "no_token_positional_embeddings", "no_cross_attention"),
    *("cross_self_attention", "no_decoder_final_norm", "merge_src_tgt_embed", "adaptive_input"),
    *("tie_adaptive_weights", "tie_adaptive_proj", "character_embeddings"),
    *("scale_fc", "scale_attn", "scale_heads", "scale_resids", "full_context_alignment"),
    *("untie_weights_roberta", "spectral_norm_classification_head"),
    *(
        f"share_{part}"
        for part in ("encoders", "decoders", "encoder_embeddings", "decoder_embeddings")
    ),
]
_LANGUAGE_MODEL = re.compile(r"(layerdrop_)?transformer_lm(_.*)?")
_ROBERTA = re.compile(r"(layerdrop_)?(roberta|xlm)(_.*)?")
_FIXED_IN_ROBERTA = (  # no flags there
    *("encoder_learned_pos", "no_scale_embedding", "no_token_positional_embeddings"),
    *("max_source_positions", "max_target_positions"),
)


def model_flags(model: Mapping[str, Any]) -> str:
    """The flags of ``fairseq-train`` that build this model: architecture, sizes, form, dropout."""
    name = architecture(model)
    flags = [f"--arch {name}"]
    flags += [f"{_flag(value)} {_text(model[value])}" for value in _values(model, name)]
    flags += [
        _flag(form) for form in _BOOLEAN_FLAGS if model.get(form) and not _is_fixed(form, name)
    ]
    if "layerdrop_shapes" in model:  # our architectures have a rate unless told otherwise
        flags += [f"--{stack}-layerdrop 0" for stack in STACKS if f"{stack}_layers" in model]
        flags += [f"--layerdrop-shapes {shlex.quote(model['layerdrop_shapes'])}"]
    return " ".join(flags)


def _values(model: Mapping[str, Any], name: str) -> list[str]:
    """The options with values that are written as flags of this architecture."""
    values = _SIZES + _VALUES
    for option, others in _VALUES_WITH.items():
        values = [*values, *others] if model.get(option) else values
    if _LANGUAGE_MODEL.fullmatch(name):
        values = [*values, "decoder_input_dim", "decoder_output_dim"]
    # The flag's value may be a text, where the configuration has a number.
    elif str(model.get("decoder_output_dim")) != str(model.get("decoder_embed_dim")):
        values = [*values, "decoder_output_dim"]
    given = [value for value in values if model.get(value) is not None]
    return [value for value in given if not _is_fixed(value, name)]


def _text(value: Any) -> str:
    """A value on the command line; of a list ``1000,2000``."""
    return (
        ",".join(map(str, value)) if isinstance(value, (list, tuple)) else shlex.quote(str(value))
    )


def _is_fixed(option: str, name: str) -> bool:
    return _ROBERTA.fullmatch(name) is not None and option in _FIXED_IN_ROBERTA


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
