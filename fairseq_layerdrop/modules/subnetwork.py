# SPDX-License-Identifier: MIT
"""Restrict a model in memory to some of its layers: for a while, or for good.

Works on any model whose stacks are ``model.encoder.layers`` and ``model.decoder.layers``: on a
:class:`LayerDropList` the active set is fixed, a plain ``ModuleList`` is swapped for a shorter one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList


def depths(model: nn.Module) -> dict[str, int]:
    """The model's stacks and their depths, encoder first: ``{"encoder": 6, "decoder": 6}``."""
    return {name: len(stack.layers) for name, stack in _stacks(model).items()}  # type: ignore[arg-type]


def restrict(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Leave only the layers ``kept`` of each stack named; return the function that gives the rest back.

    Raises:
        ValueError: if the model has no such stack or layer; then nothing was changed.
    """
    stacks = _stacks(model)
    for name, indices in kept.items():
        depth = len(stacks[name].layers) if name in stacks else 0  # type: ignore[arg-type]
        if not all(0 <= i < depth for i in indices):
            found = ", ".join(f"{stack} 0-{n - 1}" for stack, n in depths(model).items())
            raise ValueError(f"the layers to keep must be the model's ({found}), got {name} {list(indices)}")
    undo = [_restrict_stack(stacks[name], indices) for name, indices in kept.items()]

    def give_back() -> None:
        for step in undo:
            step()

    return give_back


@contextmanager
def restricted(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Iterator[nn.Module]:
    """:func:`restrict` as a scope: whole again at its end, come what may."""
    give_back = restrict(model, kept)
    try:
        yield model
    finally:
        give_back()


def _stacks(model: nn.Module) -> dict[str, nn.Module]:
    # Attributes, not children: a data-parallel wrapper passes them on.
    named = ((name, getattr(model, name, None)) for name in ("encoder", "decoder"))
    return {
        name: stack
        for name, stack in named
        if isinstance(stack, nn.Module) and isinstance(getattr(stack, "layers", None), nn.ModuleList)
    }


def _restrict_stack(stack: nn.Module, kept: Sequence[int]) -> Callable[[], None]:
    layers = stack.layers
    if isinstance(layers, LayerDropList):
        before = layers.keep
        layers.keep = tuple(kept)
        return lambda: setattr(layers, "keep", before)

    assert isinstance(layers, nn.ModuleList)
    depth = getattr(stack, "num_layers", None)

    def install(new: nn.ModuleList, num_layers: object) -> None:
        stack.layers = new
        if depth is not None:  # fairseq's decoder aligns at layer num_layers - 1 unless told otherwise
            stack.num_layers = num_layers  # type: ignore[assignment]

    install(nn.ModuleList([layers[i] for i in kept]), len(kept))
    return lambda: install(layers, depth)
