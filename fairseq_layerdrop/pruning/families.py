# SPDX-License-Identifier: MIT
"""The families whose configuration is known to the last option: what is cut of them loads as it is.

Of any other model, or one with options of somebody's own, only fairseq itself can say whether it
loads what was written, and as what.
"""

import re
from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.pruning.config import OUR_FIELD, architecture, plain, stock_name

_OF_A_STACK = (
    *("_name", "attention_heads", "embed_dim", "embed_path", "ffn_embed_dim", "layerdrop"),
    *("layers", "layers_to_keep", "learned_pos", "normalize_before", "xformers_att_config"),
)
_TRANSFORMER = frozenset(
    [
        *(f"{stack}_{option}" for stack in ("encoder", "decoder") for option in _OF_A_STACK),
        *("decoder_input_dim", "decoder_output_dim"),
        *("activation_dropout", "activation_fn", "attention_dropout", "dropout", "relu_dropout"),
        *("adaptive_input", "adaptive_softmax_cutoff", "adaptive_softmax_dropout"),
        *("adaptive_softmax_factor", "tie_adaptive_proj", "tie_adaptive_weights"),
        *("base_layers", "base_shuffle", "base_sublayers", "char_inputs", "export"),
        *("checkpoint_activations", "offload_activations", "min_params_to_wrap"),
        *("cross_self_attention", "no_cross_attention", "layernorm_embedding"),
        *("max_source_positions", "max_target_positions", "merge_src_tgt_embed"),
        *("no_decoder_final_norm", "no_scale_embedding", "no_token_positional_embeddings"),
        *("quant_noise__name", "quant_noise_pq", "quant_noise_pq_block_size"),
        *("quant_noise_scalar", "share_all_embeddings", "share_decoder_input_output_embed"),
    ]
)
_HEADS = frozenset(["pooler_activation_fn", "pooler_dropout", "spectral_norm_classification_head"])
OPTIONS: dict[str, frozenset[str]] = {
    "transformer": _TRANSFORMER,
    "transformer_lm": _TRANSFORMER
    | {
        *("adaptive_input_cutoff", "adaptive_input_factor", "add_bos_token", "tokens_per_sample"),
        *("char_embedder_highway_layers", "character_embedding_dim", "character_embeddings"),
        *("character_filters", "scale_attn", "scale_fc", "scale_heads", "scale_resids", "tpu"),
    },
    "roberta": _TRANSFORMER
    | _HEADS
    | {
        *("ffn_blocks_to_remove", "ffn_reg_scale_factor", "mha_heads_to_keep"),
        *("mha_reg_scale_factor", "load_checkpoint_heads", "max_positions"),
        "untie_weights_roberta",
    },
    "bart": _TRANSFORMER | _HEADS,
}
"""Every option that fairseq's own configuration of a model has."""

_ARCHITECTURES = {
    "transformer": re.compile(
        r"transformer(_(tiny|iwslt_de_en|wmt_en_de|vaswani_wmt_en_(de|fr)_big|wmt_en_de_big(_t2t)?))?"
    ),
    "transformer_lm": re.compile(
        r"transformer_lm(_(big|(baevski_)?(wiki103|gbw)|gpt|gpt2_(small|tiny|medium|big(ger|_wide)?)"
        r"|gpt3_(small|medium|large|xl|2_7|6_7|13|175)))?"
    ),
    "roberta": re.compile(r"roberta(_(prenorm|base|large))?|xlm"),
    "bart": re.compile(r"bart_(large|base)|mbart_(large|base(_wmt20)?)"),
}


def family(name: str) -> str | None:
    """The family that an architecture belongs to, fairseq's or this package's."""
    stock = stock_name(name)
    return next((f for f, names in _ARCHITECTURES.items() if names.fullmatch(stock)), None)


def unknown_options(model: Mapping[str, Any]) -> set[str]:
    """The names of a model's options that its family's own configuration does not know; of a model
    of no family that is known, those that none knows.

    Those of a training are among them in files of fairseq before 0.12.
    """
    known = OPTIONS.get(family(architecture(model)) or "") or frozenset().union(*OPTIONS.values())
    return model.keys() - known - {"_name", "arch"}


def own_options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model that its family does not know, nor any other section.

    fairseq before 0.12 wrote all there were into the model's, and its own models still do.

    Args:
        cfg: a checkpoint's configuration.
    """
    sections: dict[str, Any] = plain(cfg)
    model, others = sections["model"], set(sections)
    for name, section in sections.items():
        if name != "model" and isinstance(section, dict):
            others |= section.keys()
    names = sorted(unknown_options(model) - others)
    return {name: model[name] for name in names if not OUR_FIELD.fullmatch(name)}
