# SPDX-License-Identifier: MIT
"""Restrict a model in memory to some of its layers: for a while, or for good.

Works on any fairseq model whose stacks are at one of :data:`PATHS`, or on one such model a
language: on a :class:`LayerDropList` the active set is fixed, a plain ``ModuleList`` is swapped for
a shorter one. Any other list of layers is named by its path.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList

LISTS = ("layers", "transformer_layers", "conformer_layers")
"""What fairseq's models call the list of layers of a stack."""
PATHS = {
    "encoder": (
        "encoder.sentence_encoder.layers",  # roberta
        "w2v_encoder.w2v_model.encoder.layers",  # wav2vec2 and HuBERT with CTC
        "encoder.w2v_encoder.w2v_model.encoder.layers",  # the same before a decoder
        "encoder.w2v_model.encoder.layers",  # likewise
        *(f"encoder.{layers}" for layers in LISTS),
        "encoder.encoder_fft_layers",  # fastspeech2, whose decoder is in there, too
    ),
    "decoder": (*(f"decoder.{layers}" for layers in LISTS), "encoder.decoder_fft_layers"),
}
"""Where a stack's list of layers is; of several, the first that is there."""


class Stack:
    """A list of layers in its place: what a module calls ``name``."""

    def __init__(self, holder: nn.Module, name: str) -> None:
        self.holder, self.name = holder, name

    @property
    def layers(self) -> nn.ModuleList:
        """The list itself; another one may take its place."""
        return getattr(self.holder, self.name)  # type: ignore[no-any-return]

    @layers.setter
    def layers(self, layers: nn.ModuleList) -> None:
        setattr(self.holder, self.name, layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[int, str]:
        return id(self.holder), self.name


def depths(model: nn.Module) -> dict[str, int]:
    """The model's stacks and their depths, encoder first: ``{"encoder": 6, "decoder": 6}``."""
    found = {}
    for name, places in stacks(model).items():
        found[name] = min(len(stack.layers) for stack in places)
    return found


def every_layer(model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Each layer with its stack and its index, of every module that holds the stack."""
    for stack, holders in stacks(model).items():
        for holder in holders:
            for index in range(len(holder.layers)):  # to iterate would draw which layers run
                yield stack, index, holder.layers[index]


def restrict(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Leave only the layers ``kept`` of each stack named; returns the function that undoes it.

    Raises:
        ValueError: if the model has no such stack or layer; then nothing was changed.
    """
    where = stacks(model)
    for path in kept.keys() - where.keys():
        if stack := _at(model, path):
            where[path] = [stack]
    found = {name: min(len(stack.layers) for stack in places) for name, places in where.items()}
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
            stays whole. Any other list is named by its path.

    Raises:
        ValueError: if the model has no such stack or layer; then nothing was changed.
    """
    give_back = restrict(model, kept)
    try:
        yield model
    finally:
        give_back()


def stacks(model: nn.Module) -> dict[str, list[Stack]]:
    """Where the layers of each stack are: in one place, or in one a language."""
    languages = getattr(model, "models", None)
    parts = list(languages.values()) if isinstance(languages, nn.ModuleDict) else [model]
    found: dict[str, list[Stack]] = {}
    for name in PATHS:
        places = [stack for part in parts if (stack := _stack(part, name)) is not None]
        if places:
            found[name] = list(dict.fromkeys(places))  # languages may share one
    return found


def _stack(model: nn.Module, name: str) -> Stack | None:
    return next((stack for path in PATHS[name] if (stack := _at(model, path))), None)


def _at(model: nn.Module, path: str) -> Stack | None:
    """The list of layers at a path, if there is one."""
    *holders, name = path.split(".")
    holder: object = model
    for attribute in holders:
        # Attributes, not children: a data-parallel wrapper passes them on.
        holder = getattr(holder, attribute, None)
    is_list = isinstance(getattr(holder, name, None), nn.ModuleList)
    return Stack(holder, name) if isinstance(holder, nn.Module) and is_list else None


def _restrict_stack(stack: Stack, kept: Sequence[int]) -> Callable[[], None]:
    layers = stack.layers
    if isinstance(layers, LayerDropList):
        before = layers.keep
        layers.keep = tuple(kept)
        return lambda: setattr(layers, "keep", before)
    counts = {name: getattr(stack.holder, name) for name in _COUNTS if hasattr(stack.holder, name)}

    def install(new: nn.ModuleList, counts: Mapping[str, object]) -> None:
        stack.layers = new
        for name, count in counts.items():
            setattr(stack.holder, name, count)

    install(nn.ModuleList([layers[i] for i in kept]), dict.fromkeys(counts, len(kept)))
    return lambda: install(layers, counts)


_COUNTS = ("num_layers", "n_transformer_layers")
"""Where a stack notes its depth: fairseq's decoder aligns at the last layer unless told
otherwise."""
