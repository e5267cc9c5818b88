# SPDX-License-Identifier: MIT
"""A Transformer's residual stream, and the input of each layer's last linear map.

A layer with its norm before (``normalize_before``) adds ``W h + b`` to the stream, and the sum
leaves it. One with its norm behind (fairseq's default, BART, RoBERTa) adds them likewise, and the
norm of the sum leaves it: there the stream is read before that norm.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairseq_layerdrop.evaluation.loading import Loaded
from fairseq_layerdrop.evaluation.prefix import forwarding
from fairseq_layerdrop.modules.subnetwork import Stack, stacks


class Seen(NamedTuple):
    """What a layer did on the tokens of a batch that are no padding."""

    stream: Tensor
    """N x D, at its end."""
    inputs: Tensor
    """N x F, what enters ``fc2``."""


class _Reached(Exception):
    """Ends a forward at the place that it was to reach."""


def layers(model: nn.Module) -> dict[str, Any]:
    """The layers of each stack, numbered as in the whole model.

    Raises:
        ValueError: if they are none that can be compensated.
    """
    found = {}
    for stack, holders in stacks(model).items():
        known = all(hasattr(layer, "normalize_before") for h in holders for layer in h.layers)
        if len(holders) > 1 or not known:
            raise ValueError(
                "compensation takes fairseq's Transformer layers, in one stack or one encoder and "
                f"one decoder, got {_kind(holders)}"
            )
        found[stack] = holders[0].layers
    return found


def _kind(holders: list[Stack]) -> str:
    if len(holders) > 1:
        return f"{len(holders)} stacks of a kind, one a language"
    return type(next(iter(holders[0].layers))).__name__


@torch.no_grad()
def see(loaded: Loaded, sample: Any, stack: str, layer: Any) -> Seen:
    """Run the model on a batch as far as the end of this layer."""
    seen: dict[str, Tensor] = {}

    def enters(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["inputs"] = inputs[0]

    def ends(_: nn.Module, inputs: tuple[Tensor, ...], output: Any = None) -> None:
        result = inputs if output is None else output
        seen["stream"] = result[0] if isinstance(result, tuple) else result
        raise _Reached

    hooks = [layer.fc2.register_forward_pre_hook(enters)]
    if layer.normalize_before:
        hooks.append(layer.register_forward_hook(ends))
    else:
        hooks.append(layer.final_layer_norm.register_forward_pre_hook(ends))
    try:
        with suppress(_Reached):
            loaded.model(**sample["net_input"])
    finally:
        for hook in hooks:
            hook.remove()
    real = _real(loaded, sample["net_input"], stack)
    return Seen(seen["stream"][real], seen["inputs"][real])


def _real(loaded: Loaded, inputs: Mapping[str, Tensor], stack: str) -> Tensor:
    """T x B: whether a position of the stack's input is a token and no padding."""
    tokens = inputs["src_tokens"]
    if stack == "decoder":
        tokens = inputs.get("prev_output_tokens", tokens)
    dictionary = (
        loaded.task.source_dictionary if stack == "encoder" else loaded.task.target_dictionary
    )
    return tokens.ne(dictionary.pad()).t()


@contextmanager
def replaced(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """A scope in which parameters of the model have other values.

    To be opened before the model is restricted: the names are those in the whole model.
    """
    own = dict(model.named_parameters())
    before = {name: own[name].data for name in weights}
    try:
        for name, value in weights.items():
            own[name].data = value
        yield
    finally:
        for name, value in before.items():
            own[name].data = value


@contextmanager
def encoded_once(model: Any, outputs: dict[int, tuple[Tensor, Any]]) -> Iterator[None]:
    """A scope in which the encoder runs once for each batch.

    Args:
        model: an encoder and a decoder.
        outputs: what the encoder gave so far, by the identity of the batch's tokens; beside it
            these tokens: while they are kept, no others have that identity.
    """
    encode = model.encoder.forward

    def once(tokens: Tensor, *others: Any, **named: Any) -> Any:
        if id(tokens) not in outputs:
            outputs[id(tokens)] = tokens, encode(tokens, *others, **named)
        return outputs[id(tokens)][1]

    with forwarding(model.encoder, once):
        yield
