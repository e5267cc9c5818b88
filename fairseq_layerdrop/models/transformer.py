# SPDX-License-Identifier: MIT
"""``layerdrop_transformer``: fairseq's encoder-decoder Transformer with LayerDrop in both stacks."""

import logging
from argparse import Namespace

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.logging import metrics
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModelBase,
)
from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en, transformer_wmt_en_de_big

from fairseq_layerdrop.models._config import PAPER_RATE, flat_config
from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.masks import uniform_rates
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.surgery import prune_state, stack_depths, upgrade_state

logger = logging.getLogger(__name__)

LayerDropTransformerConfig = flat_config("LayerDropTransformerConfig", TransformerConfig)


class LayerDropEncoder(TransformerEncoderBase):
    """fairseq's encoder over a :class:`LayerDropList`."""

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc)
        self.layers = _layer_drop_list(self.layers, cfg, "encoder")

    def forward(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None):
        """As in fairseq; ``encoder_states`` always has depth + 1 entries of ``T x B x C``."""
        active = _draw(self.layers)
        with self.layers.running(active):
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)


class LayerDropDecoder(TransformerDecoderBase):
    """fairseq's decoder over a :class:`LayerDropList`."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, output_projection=None):
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.layers = _layer_drop_list(self.layers, cfg, "decoder", skipped=_skipped_decoder_layer)

    def extract_features(
        self,
        prev_output_tokens,
        encoder_out=None,
        incremental_state=None,
        full_context_alignment=False,
        alignment_layer=None,
        alignment_heads=None,
    ):
        """As in fairseq; ``inner_states`` always has depth + 1 entries of ``T x B x C``.

        Where the alignment layer is skipped, the attention is that of the last layer that ran before it (of
        the first that ran, if all that ran lie behind it).
        """
        active = _draw(self.layers)
        wanted = self.num_layers - 1 if alignment_layer is None else alignment_layer
        aligned = max((i for i in active if i <= wanted), default=min(active, default=wanted))
        with self.layers.running(active):
            return super().extract_features(
                prev_output_tokens, encoder_out, incremental_state, full_context_alignment, aligned, alignment_heads
            )


@register_model("layerdrop_transformer", dataclass=LayerDropTransformerConfig)
class LayerDropTransformer(TransformerModelBase):
    """The Transformer of Vaswani et al. 2017 with LayerDrop (Fan et al. 2019) in encoder and decoder."""

    _logged_rates = False

    @classmethod
    def add_args(cls, parser):
        """Add the model's flags; their defaults come later, so that an architecture can set them."""
        gen_parser_from_dataclass(parser, LayerDropTransformerConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg, task):
        """Build the model; layers to keep may be given as any SPEC, for one stack or both."""
        _check_flags(cfg)
        nested = TransformerConfig.from_namespace(Namespace(**cfg))
        plan = _plan_to_keep(cfg)
        for stack, selection in plan.selections.items():
            getattr(nested, stack).layers = len(selection.kept)
            getattr(nested, stack).layers_to_keep = None
        model = super().build_model(nested, task)
        model.plan = plan
        return model

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        return LayerDropEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        return LayerDropDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """As in fairseq, but layers to keep may be named for one stack alone, and are taken out once only."""
        state_dict = upgrade_state(state_dict)
        found = stack_depths(state_dict)
        whole = {s: selection for s, selection in self.plan.selections.items() if found.get(s) == selection.depth}
        return super().load_state_dict(prune_state(state_dict, PruningPlan(**whole)), strict)

    def set_num_updates(self, num_updates):
        """Called by the trainer only: the first call is where training starts, and where the rates are logged."""
        if not self._logged_rates:
            self._logged_rates = True
            _log_rates(self)
        super().set_num_updates(num_updates)


def _layer_drop_list(layers, cfg, stack, skipped=None):
    # Indexed, never iterated: fairseq's own list skips layers in any loop.
    return LayerDropList(
        [layers[i] for i in range(len(layers))],
        rates=uniform_rates(len(layers), getattr(cfg, stack).layerdrop),
        min_layers=min(cfg.layerdrop_min_layers, len(layers)),
        seed=cfg.seed,
        stack=stack,
        skipped=skipped,
    )


def _check_flags(cfg):
    errors = []
    for stack in ("encoder", "decoder"):
        try:
            uniform_rates(1, cfg[f"{stack}_layerdrop"])
        except ValueError as error:
            errors.append(f"--{stack}-layerdrop: {error}")
    if cfg.layerdrop_min_layers < 0:
        errors.append(f"--layerdrop-min-layers: must not be negative, got {cfg.layerdrop_min_layers}")
    if errors:
        raise ValueError("; ".join(errors))


def _skipped_decoder_layer(x):
    return x, None, None


def _draw(layers):
    """Draw the active layers, and log the share that runs wherever dropping is on."""
    active = layers.draw()
    if layers.training and layers.drops:
        metrics.log_scalar(f"{layers.stack}_keep", len(active) / len(layers), round=3)
    return active


def _plan_to_keep(cfg):
    depths = {"encoder": cfg.encoder_layers, "decoder": cfg.decoder_layers}
    return PruningPlan.from_specs({s: getattr(cfg, f"{s}_layers_to_keep", None) for s in depths}, depths)


def _log_rates(model):
    stacks = [model.encoder.layers, model.decoder.layers]
    for layers in stacks:
        depth, expected = len(layers), layers.expected_depth
        logger.info(
            f"LayerDrop, {layers.stack}: asked rate {layers.rates[0]:g}, at least {layers.min_layers} of {depth} "
            f"layers; effective rate {1 - expected / depth:.4f}, {expected:.2f} layers a step"
        )
    if not any(layers.drops for layers in stacks):
        logger.warning(
            "LayerDrop is off: no layer is ever skipped, so the model will not bear pruning. "
            f"Set --encoder-layerdrop and --decoder-layerdrop (the paper: {PAPER_RATE})."
        )


def _paper_rates(args):
    args.encoder_layerdrop = getattr(args, "encoder_layerdrop", PAPER_RATE)
    args.decoder_layerdrop = getattr(args, "decoder_layerdrop", PAPER_RATE)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_iwslt_de_en")
def layerdrop_transformer_iwslt_de_en(args):
    """Base-like 6+6, d 512, FFN 1024, 4 heads (the paper's Table 6)."""
    _paper_rates(args)
    transformer_iwslt_de_en(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_wmt_en_de_big")
def layerdrop_transformer_wmt_en_de_big(args):
    """Transformer-big 6+6 (the paper's Table 1)."""
    _paper_rates(args)
    transformer_wmt_en_de_big(args)


@register_model_architecture("layerdrop_transformer", "layerdrop_transformer_wmt_en_de_big_12_6")
def layerdrop_transformer_wmt_en_de_big_12_6(args):
    """Transformer-big with twice the encoder (the paper's Table 1; it diverged without LayerDrop)."""
    args.encoder_layers = getattr(args, "encoder_layers", 12)
    layerdrop_transformer_wmt_en_de_big(args)
