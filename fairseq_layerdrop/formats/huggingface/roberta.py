# SPDX-License-Identifier: MIT
"""RoBERTa, XLM-R, CamemBERT: post-norm ``Roberta``; pre-norm ``RobertaPreLayerNorm`` or
``XLMRobertaXL``, which has no norm of the embedding.
"""

import re
from typing import Any

import torch

from fairseq_layerdrop.formats.huggingface.names import Rules, rename
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_SENTENCES = r"encoder\.sentence_encoder\."
_LAYER = _SENTENCES + r"layers\.(\d+)\."


def convert(source: Source, head: str | None = None) -> Target:
    """A RoBERTa with one head.

    Args:
        source: the fairseq model.
        head: the classification or regression head to export; without one, the masked language
            model.

    Raises:
        ValueError: if there is no such head, or the model's form has no home in transformers.
    """
    heads = classification_heads(source)
    if head is not None and head not in heads:
        known = ", ".join(heads) or "none"
        raise ValueError(f"head={head}: the model's classification heads are: {known}")
    model_class, base = _form(source)
    _check_activation(source, head)
    state = rename(source.state, _rules(base, model_class, head))
    embedding = state[f"{base}.embeddings.word_embeddings.weight"]
    types = torch.zeros(1, embedding.shape[1])
    state[f"{base}.embeddings.token_type_embeddings.weight"] = types
    positions = state[f"{base}.embeddings.position_embeddings.weight"]
    sizes = {"vocab_size": len(embedding), "max_position_embeddings": len(positions)}
    config = _config(source) | sizes
    if head is None:
        state["lm_head.decoder.bias"] = state["lm_head.bias"]
        return Target(f"{model_class}ForMaskedLM", config, state)
    config |= _labels(state["classifier.out_proj.weight"].shape[0])
    config["classifier_dropout"] = source.options["pooler_dropout"]
    return Target(f"{model_class}ForSequenceClassification", config, state)


def classification_heads(source: Source) -> list[str]:
    """The names of a model's classification and regression heads."""
    names = [key.split(".")[1] for key in source.state if key.startswith("classification_heads.")]
    return list(dict.fromkeys(names))


def _form(source: Source) -> tuple[str, str]:
    """The class's name without its head, and what its weights begin with."""
    pre_norm = source.options["encoder_normalize_before"]
    embedding_norm = source.options["layernorm_embedding"]
    if not pre_norm and not embedding_norm:
        raise ValueError("transformers has no post-norm RoBERTa without --layernorm-embedding")
    if not pre_norm:
        return "Roberta", "roberta"
    if embedding_norm:
        return "RobertaPreLayerNorm", "roberta_prelayernorm"
    return "XLMRobertaXL", "roberta"


def _check_activation(source: Source, head: str | None) -> None:
    """transformers' heads have activations of their own."""
    name = "activation_fn" if head is None else "pooler_activation_fn"
    fixed = "gelu" if head is None else "tanh"
    if source.options[name] != fixed:
        what = "masked language model" if head is None else "classification head"
        flag = f"--{name.replace('_', '-')}"
        raise ValueError(
            f"transformers' {what} of RoBERTa has {flag} {fixed}, got {source.options[name]}"
        )


def _rules(base: str, model_class: str, head: str | None) -> Rules:
    layer = rf"{base}.encoder.layer.\1"
    xl, pre_norm = model_class == "XLMRobertaXL", model_class != "Roberta"
    before_attention = "attention.LayerNorm" if pre_norm else "attention.output.LayerNorm"
    before_ffn = "intermediate.LayerNorm" if pre_norm else "output.LayerNorm"
    if xl:
        before_attention, before_ffn = "attention.self_attn_layer_norm", "LayerNorm"
    last_norm = f"{base}.encoder.LayerNorm" if xl else f"{base}.LayerNorm"
    return (
        (_SENTENCES + r"embed_tokens\.weight", f"{base}.embeddings.word_embeddings.weight"),
        (_SENTENCES + r"embed_positions\.weight", f"{base}.embeddings.position_embeddings.weight"),
        (_SENTENCES + r"layernorm_embedding\.(.*)", rf"{base}.embeddings.LayerNorm.\1"),
        (_SENTENCES + r"layer_norm\.(.*)", rf"{last_norm}.\1"),
        (_LAYER + r"self_attn\.q_proj\.(.*)", rf"{layer}.attention.self.query.\2"),
        (_LAYER + r"self_attn\.k_proj\.(.*)", rf"{layer}.attention.self.key.\2"),
        (_LAYER + r"self_attn\.v_proj\.(.*)", rf"{layer}.attention.self.value.\2"),
        (_LAYER + r"self_attn\.out_proj\.(.*)", rf"{layer}.attention.output.dense.\2"),
        (_LAYER + r"self_attn_layer_norm\.(.*)", rf"{layer}.{before_attention}.\2"),
        (_LAYER + r"fc1\.(.*)", rf"{layer}.intermediate.dense.\2"),
        (_LAYER + r"fc2\.(.*)", rf"{layer}.output.dense.\2"),
        (_LAYER + r"final_layer_norm\.(.*)", rf"{layer}.{before_ffn}.\2"),
        *_head_rules(head),
    )


def _head_rules(head: str | None) -> Rules:
    """The head that is exported has a place, the others are left out."""
    if head is None:
        return (
            (r"encoder\.lm_head\.weight", "lm_head.decoder.weight"),
            (r"encoder\.lm_head\.(dense\..*|layer_norm\..*|bias)", r"lm_head.\1"),
            (r"classification_heads\..*", None),
        )
    return (
        (rf"classification_heads\.{re.escape(head)}\.(dense|out_proj)\.(.*)", r"classifier.\1.\2"),
        (r"classification_heads\..*", None),
        (r"encoder\.lm_head\..*", None),
    )


def _config(source: Source) -> dict[str, Any]:
    options = source.options
    tied = source.tied("encoder.lm_head.weight", "encoder.sentence_encoder.embed_tokens.weight")
    return {
        "hidden_size": options["encoder_embed_dim"],
        "num_hidden_layers": options["encoder_layers"],
        "num_attention_heads": options["encoder_attention_heads"],
        "intermediate_size": options["encoder_ffn_embed_dim"],
        "hidden_act": ACTIVATIONS[options["activation_fn"]],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["attention_dropout"],
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",  # CTranslate2's converter asks for it
        "bos_token_id": source.bos,
        "pad_token_id": source.pad,
        "eos_token_id": source.eos,
        "tie_word_embeddings": tied,
    }


def _labels(count: int) -> dict[str, Any]:
    """One output is a regression; more are classes, whose names the data has."""
    problem = "regression" if count == 1 else "single_label_classification"
    return {"num_labels": count, "problem_type": problem}
