# SPDX-License-Identifier: MIT
"""fairseq's layers in which sub-layers, heads, blocks and weights can be dropped in training.

Outside training, and where a layer is called without ``keep``, they are fairseq's own. In training
the forward is written out, because fairseq's cannot be stopped halfway; a test holds it to
fairseq's, bit for bit, where nothing is dropped.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Optional

from fairseq.modules.checkpoint_activations import checkpoint_wrapper, unwrap_checkpoint
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayerBase,
    TransformerEncoderLayerBase,
)

from fairseq_layerdrop.modules.layer_drop import pass_through
from fairseq_layerdrop.modules.structures import LayerStep, masked_call


class _Sublayers:
    """The residual blocks of a layer: ``x + dropout(f(x))``, with the norm before or after."""

    missing: frozenset[str] = frozenset()
    """The sub-layers that were pruned; their modules are ``None``."""

    if TYPE_CHECKING:  # the rest is fairseq's layer, which this is mixed into

        def __getattr__(self, name: str) -> Any: ...

    def _what_runs(self, keep: Optional[LayerStep]) -> Optional[LayerStep]:
        """Runs in training steps that drop, and always where sub-layers are missing."""
        return LayerStep() if keep is None and self.missing else keep

    def _residual(
        self,
        name: str,
        x: Any,
        keep: LayerStep,
        compute: Callable[[Any], Any],
        reads: Sequence[Any] = (),
    ) -> tuple[Any, Any]:
        """Run a block, or pass its input on and give its parameters gradients of zero.

        ``compute`` is the block's ``f``; what it returns beside its output is returned, too.
        ``reads`` is its other inputs: where the block is dropped, they get gradients of zero.
        """
        if name in self.missing:
            return x, None
        if name not in keep.sublayers:
            modules = (self.fc1, self.fc2) if name == "ffn" else (getattr(self, name),)
            unused = [
                parameter
                for module in (*modules, self._norm(name))
                for parameter in module.parameters()
            ]
            return pass_through(x, *unused, *reads), None
        norm = self._norm(name)
        y, more = compute(norm(x) if self.normalize_before else x)
        x = self.residual_connection(self.dropout_module(y), x)
        return x if self.normalize_before else norm(x), more

    def _norm(self, name: str) -> Any:
        return self.final_layer_norm if name == "ffn" else getattr(self, f"{name}_layer_norm")

    def _attention(self, name: str, keep: LayerStep, **inputs: Any) -> Any:
        attention = getattr(self, name)
        heads = keep.heads.get(name)
        columns = {}
        if heads is not None:
            columns["out_proj.weight"] = heads[: attention.num_heads]  # some may be pruned
        return masked_call(attention, columns=columns, weights=_stream(keep, name), **inputs)

    def _ffn(self, x: Any, keep: LayerStep) -> Any:
        def compute(x: Any) -> Any:
            x = self.activation_fn(masked_call(self.fc1, x, weights=_stream(keep, "fc1")))
            x = self.activation_dropout_module(x)
            columns = {} if keep.ffn is None else {"weight": keep.ffn}
            return masked_call(self.fc2, x, columns=columns, weights=_stream(keep, "fc2")), None

        return self._residual("ffn", x, keep, compute)[0]


class LayerDropEncoderLayer(_Sublayers, TransformerEncoderLayerBase):
    """fairseq's encoder layer, of which parts can be dropped."""

    def forward(
        self,
        x: Any,
        encoder_padding_mask: Any,
        attn_mask: Any = None,
        keep: Optional[LayerStep] = None,
    ) -> Any:
        """As in fairseq; ``keep`` says what runs in this training step."""
        keep = self._what_runs(keep)
        if keep is None:
            return super().forward(x, encoder_padding_mask, attn_mask)
        if attn_mask is not None:
            raise ValueError("dropping inside a layer takes no attention mask of the caller's")

        def attend(x: Any) -> Any:
            inputs = {"query": x, "key": x, "value": x, "key_padding_mask": encoder_padding_mask}
            return self._attention("self_attn", keep, **inputs, need_weights=False)

        x, _ = self._residual("self_attn", x, keep, attend)
        return self._ffn(x, keep)


class LayerDropDecoderLayer(_Sublayers, TransformerDecoderLayerBase):
    """fairseq's decoder layer, of which parts can be dropped."""

    def forward(
        self,
        x: Any,
        encoder_out: Any = None,
        encoder_padding_mask: Any = None,
        incremental_state: Any = None,
        *others: Any,
        self_attn_mask: Any = None,
        self_attn_padding_mask: Any = None,
        need_attn: bool = False,
        need_head_weights: bool = False,
        keep: Optional[LayerStep] = None,
        **named: Any,
    ) -> Any:
        """As in fairseq; ``keep`` says what runs in this training step."""
        keep = self._what_runs(keep)
        if keep is None:
            masks = {
                "self_attn_mask": self_attn_mask,
                "self_attn_padding_mask": self_attn_padding_mask,
            }
            wanted = {"need_attn": need_attn, "need_head_weights": need_head_weights}
            inputs = (x, encoder_out, encoder_padding_mask, incremental_state, *others)
            return super().forward(*inputs, **masks, **wanted, **named)

        def attend(x: Any) -> Any:
            inputs = {"query": x, "key": x, "value": x, "key_padding_mask": self_attn_padding_mask}
            more = {"incremental_state": incremental_state, "attn_mask": self_attn_mask}
            return self._attention("self_attn", keep, **inputs, **more, need_weights=False)

        def attend_to_encoder(x: Any) -> Any:
            inputs = {
                "query": x,
                "key": encoder_out,
                "value": encoder_out,
                "key_padding_mask": encoder_padding_mask,
            }
            need_weights = need_attn or need_head_weights or (not self.training and self.need_attn)
            more = {"incremental_state": incremental_state, "static_kv": True}
            wanted = {"need_weights": need_weights, "need_head_weights": need_head_weights}
            return self._attention("encoder_attn", keep, **inputs, **more, **wanted)

        x, attention = self._residual("self_attn", x, keep, attend)
        if self.encoder_attn is not None and encoder_out is not None:
            x, attention = self._residual("encoder_attn", x, keep, attend_to_encoder, [encoder_out])
        return self._ffn(x, keep), attention, None


def drop_inside(layer: Any, kind: str) -> Any:
    """Make a layer that fairseq has built one of these, in place.

    Raises:
        ValueError: for a layer of a form that is not written out here.
    """
    forms = {
        "--cross-self-attention": getattr(layer, "cross_self_attention", False),
        "scale_attn": getattr(layer, "attn_ln", None) is not None,
        "scale_heads": getattr(layer, "c_attn", None) is not None,
        "scale_fc": getattr(layer, "ffn_layernorm", None) is not None,
        "scale_resids": getattr(layer, "w_resid", None) is not None,
        "return_fc": getattr(layer, "return_fc", False),
    }
    found = [form for form, there in forms.items() if there]
    if found:
        raise ValueError(
            f"nothing inside a layer can be dropped in a model with {', '.join(found)}"
        )
    checkpointed = hasattr(layer, "precheckpoint_forward")
    offload = checkpointed and layer.forward.args[1]
    if checkpointed:  # fairseq has tied the wrapper to the forward of the class that it was
        unwrap_checkpoint(layer)
        del layer.forward
    layer.__class__ = LayerDropEncoderLayer if kind == "encoder" else LayerDropDecoderLayer
    return checkpoint_wrapper(layer, offload) if checkpointed else layer


def _stream(keep: LayerStep, name: str) -> Optional[tuple[int, float]]:
    """The seed of the masks of a module's weights: one stream a module."""
    if keep.weights is None:
        return None
    seed, rate = keep.weights
    return seed + 1000 * ("self_attn", "encoder_attn", "fc1", "fc2").index(name), rate
