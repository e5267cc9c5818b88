# SPDX-License-Identifier: MIT
"""Language models: ``XGLM`` if they are pre-norm with sinusoids, else ``OPT``, whose positions are
a table.
"""

import math
from typing import Any

from torch import Tensor

from fairseq_layerdrop.formats.huggingface.generation import of_language
from fairseq_layerdrop.formats.huggingface.names import Rules, rename
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS
from fairseq_layerdrop.formats.huggingface.positions import sinusoids
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_LAYERS = (
    r"(layers\.\d+\.(?:self_attn\.(?:[qkv]|out)_proj|fc1|fc2"
    r"|(?:self_attn|final)_layer_norm)\.(?:weight|bias))"
)


def convert(source: Source) -> Target:
    """A model that continues a text.

    Raises:
        ValueError: if the model's form has no home in transformers.
    """
    options = source.options
    if options["layernorm_embedding"]:
        raise ValueError("transformers has no home for a language model's --layernorm-embedding")
    widths = [options[f"decoder_{name}_dim"] for name in ("input", "embed", "output")]
    if widths[0] != widths[2]:
        raise ValueError(
            "transformers has no home for --decoder-input-dim and --decoder-output-dim that "
            f"differ, got {widths[0]} and {widths[2]}"
        )
    last_norm = not options["no_decoder_final_norm"]
    sinusoidal = not options["decoder_learned_pos"]
    pre_norm = options["decoder_normalize_before"]
    as_xglm = pre_norm and last_norm and sinusoidal and len({*widths}) == 1
    return _xglm(source) if as_xglm else _opt(source)


def _xglm(source: Source) -> Target:
    options = source.options
    rules: Rules = (
        (r"decoder\.embed_tokens\.weight", "model.embed_tokens.weight"),
        (r"decoder\.layer_norm\.(.*)", r"model.layer_norm.\1"),
        (r"decoder\.output_projection\.weight", "lm_head.weight"),
        (rf"decoder\.{_LAYERS}", r"model.\1"),
    )
    config = _config(source) | {
        "d_model": options["decoder_embed_dim"],
        "num_layers": options["decoder_layers"],
        "attention_heads": options["decoder_attention_heads"],
        "activation_dropout": options["activation_dropout"],
        "scale_embedding": not options["no_scale_embedding"],
        "decoder_start_token_id": source.eos,
    }
    return Target("XGLMForCausalLM", config, rename(source.state, rules), of_language(source))


def _opt(source: Source) -> Target:
    options = source.options
    rules: Rules = (
        (r"decoder\.(embed_(?:tokens|positions)\.weight)", r"model.decoder.\1"),
        (r"decoder\.project_(in|out)_dim\.weight", r"model.decoder.project_\1.weight"),
        (r"decoder\.layer_norm\.(.*)", r"model.decoder.final_layer_norm.\1"),
        (r"decoder\.output_projection\.weight", "lm_head.weight"),
        (rf"decoder\.{_LAYERS}", r"model.decoder.\1"),
    )
    state = rename(source.state, rules)
    positions, width = options["max_target_positions"], options["decoder_embed_dim"]
    table = sinusoids(positions + source.pad + 1, width, source.pad)
    state.setdefault("model.decoder.embed_positions.weight", table)
    config = _config(source) | {
        "hidden_size": width,
        "word_embed_proj_dim": options["decoder_input_dim"],
        "num_hidden_layers": options["decoder_layers"],
        "num_attention_heads": options["decoder_attention_heads"],
        "do_layer_norm_before": options["decoder_normalize_before"],
        "_remove_final_layer_norm": options["no_decoder_final_norm"],
    }
    if not options["no_scale_embedding"]:
        _scale(state, config, math.sqrt(width))
    return Target("OPTForCausalLM", config, state, of_language(source))


def _scale(state: dict[str, Tensor], config: dict[str, Any], factor: float) -> None:
    """Multiply what OPT embeds, which it does not scale itself; the projection keeps its own."""
    name = "model.decoder.embed_tokens.weight"
    state[name] = state[name] * factor
    config["tie_word_embeddings"] = False


def _config(source: Source) -> dict[str, Any]:
    options = source.options
    return {
        "vocab_size": len(source.state["decoder.embed_tokens.weight"]),
        "ffn_dim": options["decoder_ffn_embed_dim"],
        "max_position_embeddings": options["max_target_positions"],
        "activation_function": ACTIVATIONS[options["activation_fn"]],
        "dropout": options["dropout"],
        "attention_dropout": options["attention_dropout"],
        "layerdrop": 0.0,
        "bos_token_id": source.eos,
        "pad_token_id": source.pad,
        "eos_token_id": source.eos,
        "tie_word_embeddings": source.tied(
            "decoder.output_projection.weight", "decoder.embed_tokens.weight"
        ),
    }
