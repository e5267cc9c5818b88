# SPDX-License-Identifier: MIT
"""What becomes of each option of a fairseq model: mapped, without effect, or refused.

An option that changes what a model computes and is forgotten here would give a model that is
silently another one, so a test holds these tables against fairseq's own lists of options.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAPPED = _names("""
    activation_dropout activation_fn attention_dropout conv_channels conv_kernel_sizes conv_pos
    conv_pos_groups conv_strides conv_version decoder_attention_heads decoder_embed_dim
    decoder_ffn_embed_dim decoder_input_dim decoder_layers decoder_learned_pos
    decoder_normalize_before decoder_output_dim dropout dropout_input encoder_attention_heads
    encoder_embed_dim encoder_ffn_embed_dim encoder_layers encoder_learned_pos
    encoder_normalize_before final_dropout input_channels input_feat_per_channel layer_norm_first
    layernorm_embedding mask_channel_length mask_channel_prob mask_length mask_prob
    max_source_positions max_target_positions no_decoder_final_norm no_scale_embedding
    pooler_activation_fn pooler_dropout
""")
"""What the converters read; they see nothing else."""

READ_OFF_THE_MODEL = _names("""
    conv_bias conv_feature_layers extractor_mode max_positions share_all_embeddings
    share_decoder_input_output_embed untie_weights_roberta w2v_args
""")
"""What the converters see in the weights: which tensors are one, of which form, with a norm, a
bias; and what is inside a CTC model.
"""

WITHOUT_EFFECT = _names("""
    adaptive_input_cutoff adaptive_input_factor adaptive_softmax_dropout adaptive_softmax_factor
    add_bos_token adp_act_fn adp_dim adp_num adp_trf_idx alignment_heads alignment_layer apply_mask
    attn_type base_shuffle base_sublayers blank_mode char_embedder_highway_layers
    character_embedding_dim character_filters checkpoint_activations codebook_negatives
    conv_out_channels cross_sample_negatives data ddp_backend decoder_embed_path decoder_layerdrop
    decoder_layers_to_keep depthwise_conv_kernel_size drop_path dropout_features encoder_embed_path
    encoder_freezing_updates encoder_layerdrop encoder_layers_to_keep export feature_grad_mult
    ffn_reg_scale_factor final_dim fp16 freeze_finetune_updates freeze_regex full_context_alignment
    label_rate latent_dim latent_groups latent_temp latent_vars layer_decay layerdrop
    load_checkpoint_heads load_ema load_pretrained_encoder_from logit_temp mask_channel_before
    mask_channel_min_space mask_channel_other mask_channel_selection mask_dropout mask_min_space
    mask_other mask_selection mha_reg_scale_factor min_params_to_wrap negatives_from_everywhere
    no_mask_channel_overlap no_mask_overlap no_pretrained_weights normalize num_negatives
    offload_activations quant_noise_pq_block_size quantize_targets quantizer_depth quantizer_factor
    relu_dropout require_same_masks required_seq_len_multiple same_quantizer skip_masked skip_nomask
    target_glu tie_adaptive_proj tie_adaptive_weights tokens_per_sample tpu untie_final_proj
    update_alibi w2v_path zero_mask
""")
"""In evaluation, on a checkpoint that has its true depth and none of the refused options; where
sound is encoded, on the encoder and its CTC head.
"""

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "adaptive_input": (False,),
    "adaptive_softmax_cutoff": (None, ""),
    "base_layers": (0,),
    "blank_weight": (0,),
    "char_inputs": (False,),
    "character_embeddings": (False,),
    "conv_pos_batch_norm": (False,),
    "crop_seq_to_multiple": (1,),
    "cross_self_attention": (False,),
    "decoder_xformers_att_config": (None, ""),
    "encoder_xformers_att_config": (None, ""),
    "ffn_blocks_to_remove": (-1,),
    "layer_type": ("transformer",),
    "merge_src_tgt_embed": (False,),
    "mha_heads_to_keep": (-1,),
    "no_cross_attention": (False,),
    "no_token_positional_embeddings": (False,),
    "pos_conv_depth": (1,),
    "pos_enc_type": ("abs",),
    "quant_noise_pq": (0,),
    "quant_noise_scalar": (0,),
    "quantize_input": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
    "scale_heads": (False,),
    "scale_resids": (False,),
    "spectral_norm_classification_head": (False,),
}
"""What no class of transformers has, with the values that mean that it is not used."""

ACTIVATIONS = {
    "relu": "relu",
    "relu_squared": "relu2",
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "swish": "silu",
    "tanh": "tanh",
    "linear": "linear",
}
"""fairseq's names of activations and transformers'."""


def refusals(options: Mapping[str, Any]) -> Iterator[str]:
    """Every option of a model that no class of transformers has, in the words of its flag."""
    for name, unused in REFUSED.items():
        if name in options and _plain(options[name]) not in unused:
            yield f"{flag(name)} {_plain(options[name])}".removesuffix(" True")
    for name in ("activation_fn", "pooler_activation_fn"):
        if options.get(name, "relu") not in ACTIVATIONS:
            yield f"{flag(name)} {options[name]}"


def mapped(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a converter may read."""
    return {name: _plain(options[name]) for name in MAPPED & options.keys()}


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _plain(value: Any) -> Any:
    """An option as text says it: some are enumerations."""
    return getattr(value, "value", value)
