# SPDX-License-Identifier: MIT
"""``layerdrop_bart``: fairseq's BART with LayerDrop in both stacks."""

from argparse import Namespace
from dataclasses import field
from typing import Any, Optional

from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture, bart_large_architecture
from fairseq.models.transformer import TransformerConfig

from fairseq_layerdrop.compatibility import task_options
from fairseq_layerdrop.models._config import flat_config, follows, paper_rates
from fairseq_layerdrop.models._stacks import LayerDropModel

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

    @staticmethod
    def build_options(options: Namespace, task: Any) -> Any:
        """The options with the task's name, which fairseq's BART asks for."""
        task_section = task_options(task)
        options.task = getattr(task_section, "_name", None) or task_section.task
        return options


@register_model_architecture("layerdrop_bart", "layerdrop_bart_base")
def layerdrop_bart_base(args: Any) -> None:
    """6+6 layers, d 768."""
    paper_rates(args)
    bart_base_architecture(args)


@register_model_architecture("layerdrop_bart", "layerdrop_bart_large")
def layerdrop_bart_large(args: Any) -> None:
    """12+12 layers, d 1024."""
    paper_rates(args)
    bart_large_architecture(args)
