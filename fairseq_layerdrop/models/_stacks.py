# SPDX-License-Identifier: MIT
"""LayerDrop for the stacks and models that fairseq has built: what every family shares."""

import logging

from fairseq.logging import metrics
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase

from fairseq_layerdrop.models._config import PAPER_RATE
from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.masks import uniform_rates
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan
from fairseq_layerdrop.pruning.stacks import stack_depths
from fairseq_layerdrop.pruning.surgery import prune_state
from fairseq_layerdrop.pruning.upgrade import upgrade_state

logger = logging.getLogger(__name__)


class LayerDropEncoder(TransformerEncoderBase):
    """fairseq's encoder over a :class:`LayerDropList`."""

    def forward(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None):
        """As in fairseq; ``encoder_states`` always has depth + 1 entries of ``T x B x C``."""
        active = _draw(self.layers)
        with self.layers.running(active):
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)


class LayerDropDecoder(TransformerDecoderBase):
    """fairseq's decoder over a :class:`LayerDropList`."""

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


class LayerDropModel:
    """Mixin for a fairseq model whose stacks drop layers: layers to keep, and what the log says of the rates.

    A model's ``build_model`` checks its configuration by :meth:`plan_of`, lets fairseq build, and hands each stack
    to :func:`drop_layers`.
    """

    plan = PruningPlan()
    _logged_rates = False

    @staticmethod
    def plan_of(cfg):
        """The layers to keep that a flat configuration names, as any SPEC, for one stack or both.

        Raises:
            ValueError: one message that names every flag that is out of range.
        """
        depths = {stack: cfg[f"{stack}_layers"] for stack in STACKS if f"{stack}_layers" in cfg}
        errors = []
        for stack in depths:
            try:
                uniform_rates(1, cfg[f"{stack}_layerdrop"])
            except ValueError as error:
                errors.append(f"--{stack}-layerdrop: {error}")
        if cfg.layerdrop_min_layers < 0:
            errors.append(f"--layerdrop-min-layers: must not be negative, got {cfg.layerdrop_min_layers}")
        if errors:
            raise ValueError("; ".join(errors))
        return PruningPlan.from_specs({stack: cfg[f"{stack}_layers_to_keep"] for stack in depths}, depths)

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
            _log_rates([layers for layers in self.modules() if isinstance(layers, LayerDropList)])
        super().set_num_updates(num_updates)


def drop_layers(stack, name, cfg):
    """Make a stack that fairseq has built drop layers, in place; return it.

    Its class is changed, not the way it was made: the weights, and the order in which fairseq drew random numbers
    for them, are those of the stock model.

    Args:
        stack: fairseq's encoder or decoder.
        name: ``encoder`` or ``decoder``.
        cfg: the model's flat configuration.
    """
    depth = len(stack.layers)
    # Indexed, never iterated: fairseq's own list skips layers in any loop.
    layers = [stack.layers[i] for i in range(depth)]
    stack.__class__ = LayerDropEncoder if name == "encoder" else LayerDropDecoder
    stack.layers = LayerDropList(
        layers,
        rates=uniform_rates(depth, cfg[f"{name}_layerdrop"]),
        min_layers=min(cfg.layerdrop_min_layers, depth),
        seed=cfg.seed,
        stack=name,
        skipped=None if name == "encoder" else _skipped_decoder_layer,
    )
    return stack


def _skipped_decoder_layer(x):
    return x, None, None


def _draw(layers):
    """Draw the active layers, and log the share that runs wherever dropping is on."""
    active = layers.draw()
    if layers.training and layers.drops:
        metrics.log_scalar(f"{layers.stack}_keep", len(active) / len(layers), round=3)
    return active


def _log_rates(lists):
    for layers in lists:
        depth, expected = len(layers), layers.expected_depth
        logger.info(
            f"LayerDrop, {layers.stack}: asked rate {layers.rates[0]:g}, at least {layers.min_layers} of {depth} "
            f"layers; effective rate {1 - expected / depth:.4f}, {expected:.2f} layers a step"
        )
    if not any(layers.drops for layers in lists):
        flags = " and ".join(f"--{layers.stack}-layerdrop" for layers in lists)
        logger.warning(
            "LayerDrop is off: no layer is ever skipped, so the model will not bear pruning. "
            f"Set {flags} (the paper: {PAPER_RATE})."
        )
