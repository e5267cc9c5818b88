# SPDX-License-Identifier: MIT
"""``layerdrop_transformer``: fairseq's Transformer with LayerDrop in both stacks."""

from argparse import Namespace
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.models.transformer.transformer_legacy import (
    base_architecture,
    transformer_iwslt_de_en,
    transformer_wmt_en_de_big,
)

from fairseq_layerdrop.models._config import flat_config, follows, paper_rates
from fairseq_layerdrop.models._stacks import LayerDropModel

# In a nested configuration the decoder's sizes follow the encoder's by code in each architecture.
LayerDropTransformerConfig = flat_config(
    "LayerDropTransformerConfig",
    TransformerConfig,
    decoder_embed_dim=(int, follows("encoder_embed_dim", "decoder: embedding dimension")),
    decoder_ffn_embed_dim=(
        int,
        follows("encoder_ffn_embed_dim", "decoder: embedding dimension for FFN"),
    ),
    decoder_input_dim=(int, follows("decoder_embed_dim")),
    decoder_output_dim=(int, follows("decoder_embed_dim", "decoder: output dimension")),
)


@register_model("layerdrop_transformer", dataclass=LayerDropTransformerConfig)
class LayerDropTransformer(LayerDropModel, TransformerModelBase):
    """The Transformer (Vaswani et al. 2017) with LayerDrop (Fan et al. 2019) in both stacks."""

    @staticmethod
    def build_options(options: Namespace, task: Any) -> Any:
        """The options nested, as fairseq's Transformer takes them."""
        return TransformerConfig.from_namespace(options)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_iwslt_de_en")
def layerdrop_transformer_iwslt_de_en(args: Any) -> None:
    """Base-like 6+6, d 512, FFN 1024, 4 heads (the paper's Table 6)."""
    paper_rates(args)
    transformer_iwslt_de_en(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_wmt_en_de_big")
def layerdrop_transformer_wmt_en_de_big(args: Any) -> None:
    """Transformer-big 6+6 (the paper's Table 1)."""
    paper_rates(args)
    transformer_wmt_en_de_big(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_wmt_en_de_big_12_6")
def layerdrop_transformer_wmt_en_de_big_12_6(args: Any) -> None:
    """Transformer-big with twice the encoder (Table 1; it diverged without LayerDrop)."""
    args.encoder_layers = getattr(args, "encoder_layers", 12)
    layerdrop_transformer_wmt_en_de_big(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_cnn_dm")
def layerdrop_transformer_cnn_dm(args: Any) -> None:
    """Transformer-base 6+6 (the paper's Table 3, CNN-DM; its settings are in Table 5)."""
    paper_rates(args)
    base_architecture(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_cnn_dm_6_8")
def layerdrop_transformer_cnn_dm_6_8(args: Any) -> None:
    """The same with a decoder of 8 layers (Table 3: the best ROUGE)."""
    args.decoder_layers = getattr(args, "decoder_layers", 8)
    layerdrop_transformer_cnn_dm(args)
