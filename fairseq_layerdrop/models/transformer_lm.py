# SPDX-License-Identifier: MIT
"""``layerdrop_transformer_lm``: fairseq's Transformer language model with LayerDrop."""

from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer_lm import (
    TransformerLanguageModel,
    TransformerLanguageModelConfig,
    transformer_lm_baevski_wiki103,
)

from fairseq_layerdrop.models._config import flat_config, paper_rates
from fairseq_layerdrop.models._stacks import LayerDropModel

LayerDropTransformerLMConfig = flat_config(
    "LayerDropTransformerLMConfig", TransformerLanguageModelConfig
)


@register_model("layerdrop_transformer_lm", dataclass=LayerDropTransformerLMConfig)
class LayerDropTransformerLM(LayerDropModel, TransformerLanguageModel):
    """A decoder-only Transformer with LayerDrop (Fan et al. 2019, section 4.2)."""


@register_model_architecture("layerdrop_transformer_lm", "layerdrop_transformer_lm_wiki103")
def layerdrop_transformer_lm_wiki103(args: Any) -> None:
    """Adaptive inputs of Baevski & Auli, 16 layers (the paper's Table 2: 18.3 ppl)."""
    paper_rates(args, "decoder")
    transformer_lm_baevski_wiki103(args)


@register_model_architecture("layerdrop_transformer_lm", "layerdrop_transformer_lm_wiki103_40")
def layerdrop_transformer_lm_wiki103_40(args: Any) -> None:
    """The paper's 40 layers (Table 2: 17.7 ppl, 423M parameters).

    The paper gives neither width: at d 1024 an FFN of 2,560 is the one that makes 423M.
    """
    args.decoder_layers = getattr(args, "decoder_layers", 40)
    args.decoder_ffn_embed_dim = getattr(args, "decoder_ffn_embed_dim", 2560)
    layerdrop_transformer_lm_wiki103(args)
