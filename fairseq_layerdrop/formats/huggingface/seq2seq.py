# SPDX-License-Identifier: MIT
"""Encoder and decoder: ``Bart``, ``MBart``, ``M2M100`` or ``FSMT``, by the placement of the norms,
the norm of the embedding, the kind of positions and the ties.
"""

from typing import Any

import torch

from fairseq_layerdrop.formats.huggingface.generation import of_translation
from fairseq_layerdrop.formats.huggingface.names import Rules, rename
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS, flag
from fairseq_layerdrop.formats.huggingface.positions import sinusoids
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_LAYERS = (
    r"layers\.\d+\.(?:(?:self_attn|encoder_attn)\.(?:[qkv]|out)_proj|fc1|fc2"
    r"|(?:self_attn|encoder_attn|final)_layer_norm)\.(?:weight|bias)"
)
_STACKS = (
    r"((?:encoder|decoder)\.(?:embed_tokens\.weight|embed_positions\.weight"
    rf"|(?:layer_norm|layernorm_embedding)\.(?:weight|bias)|{_LAYERS}))"
)


def convert(source: Source) -> Target:
    """A model that reads and writes.

    Raises:
        ValueError: if the model's form has no home in transformers.
    """
    model_class = _form(source)
    if model_class == "FSMT":
        return _fsmt(source)
    tied = source.tied(
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.output_projection.weight",
    )
    state = rename(source.state, _rules("lm_head.weight"))
    # Untied, the shared table is there and not used.
    state["model.shared.weight"] = state["model.encoder.embed_tokens.weight"]
    words = len(state["model.shared.weight"])
    config = _config(source) | {"vocab_size": words, "tie_word_embeddings": tied}
    if model_class == "Bart":  # CTranslate2's converter asks for these
        config |= {"normalize_before": False, "normalize_embedding": True}
    if model_class in ("Bart", "MBart"):
        state["final_logits_bias"] = torch.zeros(1, words)
    return Target(f"{model_class}ForConditionalGeneration", config, state, of_translation(source))


def _form(source: Source) -> str:
    """The class that computes what this model computes."""
    options = source.options
    _check_alike(source)
    learned = options["encoder_learned_pos"], options["decoder_learned_pos"]
    pre_norm, embedding_norm = options["encoder_normalize_before"], options["layernorm_embedding"]
    if not pre_norm and not embedding_norm:
        return "FSMT"
    what = "pre-norm" if pre_norm else "post-norm"
    if embedding_norm and learned != (True, True):
        raise ValueError(
            "transformers has no home for --layernorm-embedding without --encoder-learned-pos and "
            "--decoder-learned-pos"
        )
    if not embedding_norm and True in learned:
        raise ValueError(
            f"transformers has no home for {what} with learned positions and no "
            "--layernorm-embedding"
        )
    sizes = [len(source.state[f"{stack}.embed_tokens.weight"]) for stack in ("encoder", "decoder")]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"transformers has no home for {what} with dictionaries of {sizes[0]} and {sizes[1]} "
            "words"
        )
    if pre_norm and options["no_decoder_final_norm"]:
        raise ValueError("transformers has no home for --no-decoder-final-norm")
    if pre_norm:
        return "MBart" if embedding_norm else "M2M100"
    return "Bart"


def _check_alike(source: Source) -> None:
    """What transformers has one option for, and fairseq two."""
    options = source.options
    pairs = [("encoder_normalize_before", "decoder_normalize_before")]
    pairs += [
        ("encoder_embed_dim", "decoder_embed_dim"),
        ("decoder_embed_dim", "decoder_output_dim"),
    ]
    if options["encoder_learned_pos"] and options["decoder_learned_pos"]:
        pairs += [("max_source_positions", "max_target_positions")]
    for one, two in pairs:
        if options[one] != options[two]:
            raise ValueError(
                f"transformers has no home for {flag(one)} {options[one]} with {flag(two)} "
                f"{options[two]}"
            )


def _rules(projection: str) -> Rules:
    return (
        (_STACKS, r"model.\1"),
        (r"decoder\.output_projection\.weight", projection),
        (r"classification_heads\..*", None),
    )


def _fsmt(source: Source) -> Target:
    """The class for post-norm models: any ties, one dictionary or two; its positions are tables in
    the file, learned or not.
    """
    state = rename(source.state, _rules("model.decoder.output_projection.weight"))
    config = _config(source)
    rows = config["max_position_embeddings"] + source.pad + 1
    for stack in ("encoder", "decoder"):
        name = f"model.{stack}.embed_positions.weight"
        if name not in state:
            state[name] = sinusoids(rows, config["d_model"], source.pad)
        elif len(state[name]) != rows:
            raise ValueError(
                "transformers has no home for learned positions of one stack and as many "
                "sinusoids of another: --max-source-positions and --max-target-positions must be "
                "alike"
            )
    config |= {
        "src_vocab_size": len(state["model.encoder.embed_tokens.weight"]),
        "tgt_vocab_size": len(state["model.decoder.embed_tokens.weight"]),
        "langs": ["src", "tgt"],
        "tie_word_embeddings": False,
    }
    return Target("FSMTForConditionalGeneration", config, state, of_translation(source))


def _config(source: Source) -> dict[str, Any]:
    options = source.options
    sizes = {
        f"{stack}_{new}": options[f"{stack}_{old}"]
        for stack in ("encoder", "decoder")
        for new, old in (
            ("layers", "layers"),
            ("attention_heads", "attention_heads"),
            ("ffn_dim", "ffn_embed_dim"),
        )
    }
    positions = max(options["max_source_positions"], options["max_target_positions"])
    return sizes | {
        "d_model": options["encoder_embed_dim"],
        "max_position_embeddings": positions,
        "activation_function": ACTIVATIONS[options["activation_fn"]],
        "scale_embedding": not options["no_scale_embedding"],
        "dropout": options["dropout"],
        "attention_dropout": options["attention_dropout"],
        "activation_dropout": options["activation_dropout"],
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "bos_token_id": source.bos,
        "pad_token_id": source.pad,
        "eos_token_id": source.end,
        "decoder_start_token_id": source.start,
        "forced_eos_token_id": source.end,
    }
