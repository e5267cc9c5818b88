# SPDX-License-Identifier: MIT
"""``layerdrop_roberta``: fairseq's RoBERTa with LayerDrop."""

from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import (
    base_architecture,
    roberta_base_architecture,
    roberta_large_architecture,
)

from fairseq_layerdrop.models._config import flat_config, paper_rates
from fairseq_layerdrop.models._stacks import LayerDropModel

LayerDropRobertaConfig = flat_config(
    "LayerDropRobertaConfig", flags=RobertaModel.add_args, architecture=base_architecture
)


@register_model("layerdrop_roberta", dataclass=LayerDropRobertaConfig)
class LayerDropRoberta(LayerDropModel, RobertaModel):
    """RoBERTa (Liu et al. 2019) with LayerDrop in its encoder (Fan et al. 2019, section 4.2)."""


@register_model_architecture("layerdrop_roberta", "layerdrop_roberta_base")
def layerdrop_roberta_base(args: Any) -> None:
    """12 layers, d 768 (the paper's Table 4 prunes it to 6 and 3)."""
    paper_rates(args, "encoder")
    roberta_base_architecture(args)


@register_model_architecture("layerdrop_roberta", "layerdrop_roberta_large")
def layerdrop_roberta_large(args: Any) -> None:
    """24 layers, d 1024 (the paper's Table 4)."""
    paper_rates(args, "encoder")
    roberta_large_architecture(args)


@register_model_architecture("layerdrop_roberta", "layerdrop_roberta_large_48")
def layerdrop_roberta_large_48(args: Any) -> None:
    """48 layers, trained at a rate of 0.5, so that about 24 run in a step (the paper's Table 4)."""
    args.encoder_layers = getattr(args, "encoder_layers", 48)
    args.encoder_layerdrop = getattr(args, "encoder_layerdrop", 0.5)
    layerdrop_roberta_large(args)
