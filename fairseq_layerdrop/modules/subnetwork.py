# SPDX-License-Identifier: MIT
"""Restrict a model in memory to some of its layers: for a while, or for good.

Works on any fairseq model whose stacks are at one of :data:`PATHS`, or on one such model a
language: on a :class:`LayerDropList` the active set is fixed, a plain ``ModuleList`` is swapped for
a shorter one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList

PATHS = {
    "encoder": (
        "encoder.sentence_encoder",  # roberta
        "w2v_encoder.w2v_model.encoder",  # wav2vec2 and HuBERT with CTC
        "encoder.w2v_model.encoder",  # the same as the encoder of a sequence-to-sequence model
        "encoder",
    ),
    "decoder": ("decoder",),
}
"""Where the module that holds a stack's ``layers`` is; of several, the first that is there."""


def depths(model: nn.Module) -> dict[str, int]:
    """The model's stacks and their depths, encoder first: ``{"encoder": 6, "decoder": 6}``."""
    found = {}
    for name, holders in stacks(model).items():
        found[name] = min(len(stack.layers) for stack in holders)  # type: ignore[arg-type]
    return found


def every_layer(model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Each layer with its stack and its index, of every module that holds the stack."""
    for stack, holders in stacks(model).items():
        for holder in holders:
            for index, layer in enumerate(holder.layers):  # type: ignore[arg-type]
                yield stack, index, layer


def restrict(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Leave only the layers ``kept`` of each stack named; returns the function that undoes it.

    Raises:
        ValueError: if the model has no such stack or layer; then nothing was changed.
    """
    where = stacks(model)
    found = depths(model)
    for name, indices in kept.items():
        if not all(0 <= i < found.get(name, 0) for i in indices):
            ranges = ", ".join(f"{stack} 0-{n - 1}" for stack, n in found.items())
            raise ValueError(
                f"the layers to keep must be the model's ({ranges}), got {name} {list(indices)}"
            )
    undo: list[Callable[[], None]] = []
    for name, indices in kept.items():
        undo += [_restrict_stack(stack, indices) for stack in where[name]]

    def give_back() -> None:
        for step in undo:
            step()

    return give_back


@contextmanager
def restricted(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Iterator[nn.Module]:
    """:func:`restrict` as a scope around the model, which is whole again at its end.

    Args:
        model: any fairseq model whose stacks :data:`PATHS` finds, in evaluation or in training.
        kept: 0-based layers by stack, ascending, e.g. a plan's ``kept``; a stack that is not named
            stays whole.

    Raises:
        ValueError: if the model has no such stack or layer; then nothing was changed.
    """
    give_back = restrict(model, kept)
    try:
        yield model
    finally:
        give_back()


def stacks(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules that hold the ``layers`` of each stack: one, or one a language."""
    languages = getattr(model, "models", None)
    parts = list(languages.values()) if isinstance(languages, nn.ModuleDict) else [model]
    found: dict[str, list[nn.Module]] = {}
    for name in PATHS:
        holders = [stack for part in parts if (stack := _stack(part, name)) is not None]
        if holders:
            found[name] = list(dict.fromkeys(holders))  # languages may share one
    return found


def _stack(model: nn.Module, name: str) -> nn.Module | None:
    for path in PATHS[name]:
        stack: object = model
        for attribute in path.split("."):
            # Attributes, not children: a data-parallel wrapper passes them on.
            stack = getattr(stack, attribute, None)
        if isinstance(stack, nn.Module) and isinstance(
            getattr(stack, "layers", None), nn.ModuleList
        ):
            return stack
    return None


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
        # By default fairseq's decoder aligns at layer num_layers - 1.
        if depth is not None:
            stack.num_layers = num_layers  # type: ignore[assignment]

    install(nn.ModuleList([layers[i] for i in kept]), len(kept))
    return lambda: install(layers, depth)
