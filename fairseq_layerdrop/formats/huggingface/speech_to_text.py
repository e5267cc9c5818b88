# SPDX-License-Identifier: MIT
"""``s2t_transformer``: ``Speech2Text``, which is pre-norm with sinusoids."""

from typing import Any

from fairseq_layerdrop.formats.huggingface.generation import of_translation
from fairseq_layerdrop.formats.huggingface.names import Rules, rename
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS, flag
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_RULES: Rules = (
    (r"encoder\.subsample\.(conv_layers\..*)", r"model.encoder.conv.\1"),
    (r"encoder\.transformer_layers\.(.*)", r"model.encoder.layers.\1"),
    (r"encoder\.layer_norm\.(.*)", r"model.encoder.layer_norm.\1"),
    (r"encoder\.ctc_proj\..*", None),
    (r"decoder\.output_projection\.weight", "lm_head.weight"),
    (r"decoder\.((?:embed_tokens|layers|layer_norm)\..*)", r"model.decoder.\1"),
)


def convert(source: Source) -> Target:
    """A model that hears and writes; a CTC head beside the decoder is left out.

    Raises:
        ValueError: if the model's form has no home in transformers.
    """
    options = source.options
    needed: dict[str, Any] = {"encoder_normalize_before": True, "decoder_normalize_before": True}
    needed |= {"layernorm_embedding": False, "decoder_learned_pos": False}
    needed |= {"no_decoder_final_norm": False, "conv_version": "s2t_transformer"}
    for name, value in needed.items():
        if options.get(name, value) != value:
            raise ValueError(
                f"transformers has no home for an s2t_transformer with {flag(name)} {options[name]}"
            )
    state = rename(source.state, _RULES)
    config = _config(source) | {
        "vocab_size": len(state["lm_head.weight"]),
        "tie_word_embeddings": source.tied(
            "decoder.output_projection.weight", "decoder.embed_tokens.weight"
        ),
    }
    return Target("Speech2TextForConditionalGeneration", config, state, of_translation(source))


def _config(source: Source) -> dict[str, Any]:
    options = source.options
    kernels = [int(kernel) for kernel in str(options["conv_kernel_sizes"]).split(",")]
    return {
        "d_model": options["encoder_embed_dim"],
        "encoder_layers": options["encoder_layers"],
        "encoder_attention_heads": options["encoder_attention_heads"],
        "encoder_ffn_dim": options["encoder_ffn_embed_dim"],
        "decoder_layers": options["decoder_layers"],
        "decoder_attention_heads": options["decoder_attention_heads"],
        "decoder_ffn_dim": options["decoder_ffn_embed_dim"],
        "activation_function": ACTIVATIONS[options["activation_fn"]],
        "scale_embedding": not options["no_scale_embedding"],
        "dropout": options["dropout"],
        "attention_dropout": options["attention_dropout"],
        "activation_dropout": options["activation_dropout"],
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "num_conv_layers": len(kernels),
        "conv_kernel_sizes": kernels,
        "conv_channels": options["conv_channels"],
        "input_feat_per_channel": options["input_feat_per_channel"],
        "input_channels": options["input_channels"],
        "max_source_positions": options["max_source_positions"],
        "max_target_positions": options["max_target_positions"],
        "bos_token_id": source.bos,
        "pad_token_id": source.pad,
        "eos_token_id": source.eos,
        "decoder_start_token_id": source.start,
    }
