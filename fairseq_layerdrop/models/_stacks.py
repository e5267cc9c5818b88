# SPDX-License-Identifier: MIT
"""LayerDrop for the stacks and models that fairseq has built: what every family shares."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Dict, Optional

import torch
from fairseq.logging import metrics
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase

from fairseq_layerdrop.models._config import PAPER_RATE, add_flags, refuse_preset
from fairseq_layerdrop.models._layers import drop_inside
from fairseq_layerdrop.models._rates import (
    check_rates,
    several_processes,
    stack_rates,
    structure_rates,
)
from fairseq_layerdrop.models._shapes import reshape
from fairseq_layerdrop.modules.layer_drop import LayerDropList, Step
from fairseq_layerdrop.modules.learned import LearnedRates
from fairseq_layerdrop.modules.subnetwork import stacks
from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan
from fairseq_layerdrop.pruning.stacks import prune_state, stack_depths
from fairseq_layerdrop.pruning.upgrade import upgrade_state

logger = logging.getLogger(__name__)


class LayerDropEncoder(TransformerEncoderBase):
    """fairseq's encoder over a :class:`LayerDropList`."""

    def forward(
        self,
        src_tokens: Any,
        src_lengths: Any = None,
        return_all_hiddens: bool = False,
        token_embeddings: Any = None,
    ) -> Any:
        """As in fairseq; ``encoder_states`` always has depth + 1 entries of ``T x B x C``."""
        with self.layers.running(_draw(self.layers)):
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)


class LayerDropDecoder(TransformerDecoderBase):
    """fairseq's decoder over a :class:`LayerDropList`."""

    def extract_features(
        self,
        prev_output_tokens: Any,
        encoder_out: Any = None,
        incremental_state: Any = None,
        full_context_alignment: bool = False,
        alignment_layer: Optional[int] = None,
        alignment_heads: Optional[int] = None,
    ) -> Any:
        """As in fairseq; ``inner_states`` always has depth + 1 entries of ``T x B x C``.

        Where the alignment layer or its attention to the encoder is skipped, the attention is that
        of the last layer that ran before it, or of the first that ran at all.
        """
        step = _draw(self.layers)
        wanted = self.num_layers - 1 if alignment_layer is None else alignment_layer
        attending = [i for i in step.active if self._attends(i, step)]
        aligned = max((i for i in attending if i <= wanted), default=min(attending, default=wanted))
        with self.layers.running(step):
            return super().extract_features(
                prev_output_tokens,
                encoder_out,
                incremental_state,
                full_context_alignment,
                aligned,
                alignment_heads,
            )

    def _attends(self, index: int, step: Step) -> bool:
        dropped = step.inside and "encoder_attn" not in step.inside[index].sublayers
        return not dropped and getattr(self.layers[index], "encoder_attn", None) is not None


class LayerDropModel:
    """Mixin for a fairseq model whose stacks drop layers: layers to keep, and rates in the log.

    A model that fairseq builds from other options than flat ones says so in :meth:`build_options`.
    """

    plan = PruningPlan()
    _trains = False
    _logged_rates = False
    trains_plans = False
    """Whether its task trains the plans that will ship: they bear it without LayerDrop."""

    if TYPE_CHECKING:  # the rest is fairseq's model, which this is mixed into

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the model's flags; defaults come later, so that an architecture can set them."""
        add_flags(parser, getattr(cls, "__dataclass"))

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> Any:
        """Build the model as fairseq does, and make its stacks drop layers."""
        plan = cls.plan_of(cfg)
        options = cls.build_options(cls.stock_options(cfg, plan), task)
        model = super().build_model(options, task)  # type: ignore[misc]
        model.plan = plan
        for name, (stack,) in stacks(model).items():
            drop_layers(stack.holder, name, cfg)
        return model

    @staticmethod
    def build_options(options: Namespace, task: Any) -> Any:
        """The options in the form in which fairseq's ``build_model`` takes them: as they are."""
        return options

    @staticmethod
    def plan_of(cfg: Any) -> PruningPlan:
        """The layers to keep that a flat configuration names, for one stack or both.

        Raises:
            ValueError: one message that names every flag that is out of range, or an architecture
            in a hydra run.
        """
        refuse_preset(cfg)
        depths = {stack: cfg[f"{stack}_layers"] for stack in STACKS if f"{stack}_layers" in cfg}
        plan = PruningPlan.from_specs(
            {stack: cfg[f"{stack}_layers_to_keep"] for stack in depths}, depths
        )
        check_rates(cfg, {stack: len(kept) for stack, kept in plan.kept.items()})
        return plan

    @staticmethod
    def stock_options(cfg: Any, plan: PruningPlan) -> Namespace:
        """fairseq's options for the model: the depths that are left, without its LayerDrop."""
        options = dict(cfg)
        for stack, selection in plan.selections.items():
            options[f"{stack}_layers"] = len(selection.kept)
            options[f"{stack}_layers_to_keep"] = None
            options[f"{stack}_layerdrop"] = 0.0
        return Namespace(**options)

    def load_state_dict(
        self,
        state_dict: Dict[str, Any],
        strict: bool = True,
        model_cfg: Any = None,
        args: Any = None,
    ) -> Any:
        """As in fairseq; layers to keep may be named for one stack, and are taken out once."""
        state_dict = upgrade_state(state_dict)
        found = stack_depths(state_dict)
        whole = {
            s: selection
            for s, selection in self.plan.selections.items()
            if found.get(s) == selection.depth
        }
        for key in [key for key in state_dict if ".layerdrop_gate." in key]:
            selection = whole.get(key.split(".")[0])
            if selection is not None:
                chunk = selection.depth // len(state_dict[key])
                state_dict[key] = state_dict[key][sorted({i // chunk for i in selection.kept})]
        pruned = prune_state(state_dict, PruningPlan.of(whole))
        return super().load_state_dict(pruned, strict)  # type: ignore[misc]

    def train(self, mode: bool = True) -> Any:
        """As in fairseq; only the trainer calls it with ``True``, before it sets the update."""
        self._trains = mode
        return super().train(mode)  # type: ignore[misc]

    def set_num_updates(self, num_updates: int) -> None:
        """Log the rates at the first call in training.

        Loading a checkpoint calls this as well, before training.
        """
        if self._trains and not self._logged_rates:
            self._logged_rates = True
            lists = [layers for layers in self.modules() if isinstance(layers, LayerDropList)]
            _log_rates(lists)
            if not self.trains_plans:
                _warn_if_nothing_drops(lists)
        super().set_num_updates(num_updates)  # type: ignore[misc]


def drop_layers(stack: Any, name: str, cfg: Any) -> Any:
    """Make a stack that fairseq has built drop layers, in place; return it.

    Only its class is changed, not how it was made: the weights, and the order in which fairseq drew
    random numbers for them, are those of the stock model.

    Args:
        stack: fairseq's encoder or decoder.
        name: ``encoder`` or ``decoder``.
        cfg: the model's flat configuration.
    """
    depth, chunk = len(stack.layers), cfg.share_layers
    # Indexed, never iterated: fairseq's own list skips layers in any loop.
    layers = [stack.layers[i - i % chunk] for i in range(depth)]
    if cfg.layerdrop_shapes:
        reshape(layers, name, cfg.layerdrop_shapes)
    rates, structures = stack_rates(cfg, name, depth), structure_rates(cfg)
    learned = None
    if cfg.layerdrop_schedule == "learned":
        learned = LearnedRates(depth // chunk, cfg[f"{name}_embed_dim"], target=rates[0])
        stack.layerdrop_gate = learned
    if structures.drop:
        layers = [layers[i] if i % chunk else drop_inside(layers[i], name) for i in range(depth)]
    stack.__class__ = LayerDropEncoder if name == "encoder" else LayerDropDecoder
    stack.layers = LayerDropList(
        layers,
        rates=rates,
        min_layers=min(cfg.layerdrop_min_layers, depth),
        seed=cfg.seed,
        stack=name,
        skipped=None if name == "encoder" else _skipped_decoder_layer,
        warmup=cfg.layerdrop_warmup_updates,
        chunk=chunk,
        structures=(structures, cfg[f"{name}_attention_heads"]),
        learned=learned,
        rank=_rank(cfg),
    )
    return stack


def _rank(cfg: Any) -> Optional[int]:
    """The rank that the masks depend on; ``None`` where all processes draw the same."""
    if cfg.layerdrop_ranks == "own" and several_processes():
        return torch.distributed.get_rank()
    return None


def _skipped_decoder_layer(x: Any) -> Any:
    return x, None, None


def _draw(layers: LayerDropList) -> Step:
    """Draw what runs; where something drops, log the share of the layers and the learned rates."""
    step = layers.draw()
    if layers.training and layers.drops and layers.keep is None:
        metrics.log_scalar(f"{layers.stack}_keep", len(step.active) / len(layers), round=3)
        for i, keep in enumerate([] if step.keep is None else step.keep.tolist()):
            metrics.log_scalar(f"{layers.stack}_rate_{i}", 1 - keep, round=3)
    return step


def _log_rates(lists: Sequence[LayerDropList]) -> None:
    for layers in lists:
        depth, expected = len(layers), layers.expected_depth
        asked = sorted(set(layers.rates))
        rate = f"rate {asked[0]:g}" if len(asked) == 1 else f"rates {asked[0]:g} to {asked[-1]:g}"
        logger.info(
            f"LayerDrop, {layers.stack}: asked {rate}, at least {layers.min_layers} of {depth} "
            f"layers; effective rate {1 - expected / depth:.4f}, {expected:.2f} layers a step"
        )
        if layers.structures.drop:
            logger.info(f"LayerDrop, {layers.stack}, inside the layers: {layers.structures}")


def _warn_if_nothing_drops(lists: Sequence[LayerDropList]) -> None:
    if not any(layers.drops or layers.structures.drop for layers in lists):
        flags = " and ".join(f"--{layers.stack}-layerdrop" for layers in lists)
        logger.warning(
            "LayerDrop is off: no layer is ever skipped, so the model will not bear pruning. "
            f"Set {flags} (the paper: {PAPER_RATE})."
        )
