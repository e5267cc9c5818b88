# SPDX-License-Identifier: MIT
"""Encoders of sound: ``Wav2Vec2Model``, ``HubertModel``, and with a CTC head ``Wav2Vec2ForCTC``."""

from typing import Any

import torch
from torch import Tensor

from fairseq_layerdrop.formats.huggingface.names import Rules, rename
from fairseq_layerdrop.formats.huggingface.options import ACTIVATIONS
from fairseq_layerdrop.formats.huggingface.source import Source, Target

_INSIDE = r"(?:w2v_encoder\.w2v_model\.)?"
_LAYER = _INSIDE + r"encoder\.layers\.(\d+)\."
_CLASSES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}


def convert(source: Source) -> Target:
    """An encoder of sound, with its CTC head if it has one.

    What pre-training needs beside the encoder (the quantizer, projections of targets) is left out.
    """
    kind, ctc = source.family.removesuffix("_ctc"), source.family.endswith("_ctc")
    masks = bool(source.options["mask_prob"] or source.options["mask_channel_prob"])
    state = rename(_with_weight_norm(source.state), _rules(f"{kind}." if ctc else "", masks))
    base = f"{kind}." if ctc else ""
    width = source.options["encoder_embed_dim"]
    # fairseq has no projection where there is nothing to project.
    state.setdefault(f"{base}feature_projection.projection.weight", torch.eye(width))
    state.setdefault(f"{base}feature_projection.projection.bias", torch.zeros(width))
    config = _config(source) | _convolutions(source, state, base)
    if ctc:
        # transformers' blank is the padding, fairseq's is the beginning.
        config |= {"pad_token_id": source.bos, "bos_token_id": source.pad}
        config |= {"eos_token_id": source.eos, "vocab_size": len(state["lm_head.weight"])}
        config |= {"final_dropout": source.options["final_dropout"]}
    return Target(f"{_CLASSES[kind]}{'ForCTC' if ctc else 'Model'}", config, state)


def _with_weight_norm(state: Any) -> dict[str, Tensor]:
    """Positions' convolution as direction and length; fairseq merges them where it generates."""
    split = {}
    for name, tensor in state.items():
        if name.endswith("pos_conv.0.weight"):
            split[f"{name}_g"] = tensor.norm(dim=(0, 1), keepdim=True)
            split[f"{name}_v"] = tensor
        else:
            split[name] = tensor
    return split


def _rules(base: str, masks: bool) -> Rules:
    convolution, positions = f"{base}feature_extractor.conv_layers", f"{base}encoder.pos_conv_embed"
    layer = rf"{base}encoder.layers.\1"
    extractor = _INSIDE + r"feature_extractor\.conv_layers\."
    norm = f"{positions}.conv.parametrizations.weight"
    return (
        (extractor + r"(\d+)\.0\.(weight|bias)", rf"{convolution}.\1.conv.\2"),
        (extractor + r"(0)\.2\.(weight|bias)", rf"{convolution}.\1.layer_norm.\2"),
        (extractor + r"(\d+)\.2\.1\.(weight|bias)", rf"{convolution}.\1.layer_norm.\2"),
        (_INSIDE + r"layer_norm\.(.*)", rf"{base}feature_projection.layer_norm.\1"),
        (_INSIDE + r"post_extract_proj\.(.*)", rf"{base}feature_projection.projection.\1"),
        (_INSIDE + r"mask_emb", f"{base}masked_spec_embed" if masks else None),
        (_INSIDE + r"encoder\.pos_conv\.0\.bias", f"{positions}.conv.bias"),
        (_INSIDE + r"encoder\.pos_conv\.0\.weight_g", f"{norm}.original0"),
        (_INSIDE + r"encoder\.pos_conv\.0\.weight_v", f"{norm}.original1"),
        (_INSIDE + r"encoder\.layer_norm\.(.*)", rf"{base}encoder.layer_norm.\1"),
        (_LAYER + r"self_attn\.((?:[qkv]|out)_proj\..*)", rf"{layer}.attention.\2"),
        (_LAYER + r"self_attn_layer_norm\.(.*)", rf"{layer}.layer_norm.\2"),
        (_LAYER + r"fc1\.(.*)", rf"{layer}.feed_forward.intermediate_dense.\2"),
        (_LAYER + r"fc2\.(.*)", rf"{layer}.feed_forward.output_dense.\2"),
        (_LAYER + r"final_layer_norm\.(.*)", rf"{layer}.final_layer_norm.\2"),
        (r"w2v_encoder\.proj\.(.*)", r"lm_head.\1"),
        (_INSIDE + r"(?:quantizer|project_q|final_proj|target_glu)\..*", None),
        (_INSIDE + r"label_embs_concat", None),
    )


def _convolutions(source: Source, state: dict[str, Tensor], base: str) -> dict[str, Any]:
    """The forms of the convolutions and their norms, read off the weights; the strides are not in
    them.
    """
    convolutions = f"{base}feature_extractor.conv_layers"
    strides = source.options["conv_strides"]
    weights = [state[f"{convolutions}.{i}.conv.weight"] for i in range(len(strides))]
    every_norm = f"{convolutions}.{len(strides) - 1}.layer_norm.weight" in state
    return {
        "conv_dim": [weight.shape[0] for weight in weights],
        "conv_kernel": [weight.shape[2] for weight in weights],
        "conv_stride": strides,
        "conv_bias": f"{convolutions}.0.conv.bias" in state,
        "feat_extract_norm": "layer" if every_norm and len(strides) > 1 else "group",
        "num_feat_extract_layers": len(strides),
    }


def _config(source: Source) -> dict[str, Any]:
    options = source.options
    return {
        "hidden_size": options["encoder_embed_dim"],
        "num_hidden_layers": options["encoder_layers"],
        "num_attention_heads": options["encoder_attention_heads"],
        "intermediate_size": options["encoder_ffn_embed_dim"],
        "hidden_act": ACTIVATIONS[options["activation_fn"]],
        "hidden_dropout": options["dropout"],
        "activation_dropout": options["activation_dropout"],
        "attention_dropout": options["attention_dropout"],
        "feat_proj_dropout": options["dropout_input"],
        "layerdrop": 0.0,
        "num_conv_pos_embeddings": options["conv_pos"],
        "num_conv_pos_embedding_groups": options["conv_pos_groups"],
        "do_stable_layer_norm": options["layer_norm_first"],
        "mask_time_prob": options["mask_prob"],
        "mask_time_length": options["mask_length"],
        "mask_feature_prob": options["mask_channel_prob"],
        "mask_feature_length": options["mask_channel_length"],
    }
