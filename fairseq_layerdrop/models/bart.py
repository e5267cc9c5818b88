# SPDX-License-Identifier: MIT
"""``layerdrop_bart``: fairseq's BART with LayerDrop in both stacks."""

from dataclasses import field
from typing import Any, Optional

from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture, bart_large_architecture
from fairseq.models.transformer import TransformerConfig

from fairseq_layerdrop.models._config import PAPER_RATE, flat_config, follows
from fairseq_layerdrop.models._stacks import LayerDropModel, drop_layers

LayerDropBARTConfig = flat_config(
    "LayerDropBARTConfig",
    TransformerConfig,
    flags=BARTModel.add_args,
    architecture=bart_base_architecture,
    decoder_embed_dim=(int, follows("encoder_embed_dim", "decoder: embedding dimension")),
    decoder_ffn_embed_dim=(
        int,
        follows("encoder_ffn_embed_dim", "decoder: embedding dimension for FFN"),
    ),
    decoder_input_dim=(int, follows("decoder_embed_dim")),
    decoder_output_dim=(int, follows("decoder_embed_dim", "decoder: output dimension")),
    # Sentence prediction sets it, and BARTModel.from_pretrained the next.
    max_positions=(
        Optional[int],
        field(default=None, metadata={"help": "not read by BART's own code"}),
    ),
    load_checkpoint_heads=(
        bool,
        field(default=False, metadata={"help": "load the checkpoint's heads along"}),
    ),
)


@register_model("layerdrop_bart", dataclass=LayerDropBARTConfig)
class LayerDropBART(LayerDropModel, BARTModel):
    """BART (Lewis et al. 2020) with LayerDrop (Fan et al. 2019) in encoder and decoder."""

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> Any:
        """Build the model as fairseq does, at the depths that its layers to keep leave."""
        plan = cls.plan_of(cfg)
        options = cls.stock_options(cfg, plan)
        options.task = task.cfg._name if task.cfg else task.args.task  # fairseq's BART asks for it
        model = super().build_model(options, task)
        model.plan = plan
        for stack in plan.selections:
            drop_layers(getattr(model, stack), stack, cfg)
        return model


def _paper_rates(args: Any) -> None:
    args.encoder_layerdrop = getattr(args, "encoder_layerdrop", PAPER_RATE)
    args.decoder_layerdrop = getattr(args, "decoder_layerdrop", PAPER_RATE)


@register_model_architecture("layerdrop_bart", "layerdrop_bart_base")
def layerdrop_bart_base(args: Any) -> None:
    """6+6 layers, d 768."""
    _paper_rates(args)
    bart_base_architecture(args)


@register_model_architecture("layerdrop_bart", "layerdrop_bart_large")
def layerdrop_bart_large(args: Any) -> None:
    """12+12 layers, d 1024."""
    _paper_rates(args)
    bart_large_architecture(args)
