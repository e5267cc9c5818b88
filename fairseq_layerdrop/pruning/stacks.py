# SPDX-License-Identifier: MIT
"""Where the layers are: which keys belong to which layer, in any fairseq Transformer.

Only these paths are stacks; what else is called layers (adaptors, convolutions, experts inside a
layer) is not cut:

===========================================
=================================================================== ``encoder.layers``,
``decoder.layers``      transformer, transformer_lm, transformer_align, bart, wav2vec2, HuBERT
``encoder.sentence_encoder.layers``         roberta ``models.de-en.encoder.layers``, …
multilingual_transformer: a stack a language, all cut alike ``w2v_encoder.w2v_model.encoder.layers``
   wav2vec2 or HuBERT, fine-tuned with CTC ``encoder.w2v_model.encoder.layers``        the same as
   the encoder of a sequence-to-sequence model
===========================================
===================================================================
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor

from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan

Value = TypeVar("Value")

_LAYER_KEY = re.compile(
    r"((?:models\.[^.]+\.)?(?:encoder|decoder|encoder\.sentence_encoder|(?:w2v_encoder|encoder)\.w2v_model\.encoder)"
    r"\.layers)\.(\d+)\.(.+)"
)
_OTHER_LIST = re.compile(r"((?:.+?\.)?\w*layers)\.(\d+)\..+")


class Place(NamedTuple):
    """Where a key's tensor is: ``("encoder.layers", 3, "fc1.bias")``."""

    path: str
    layer: int
    name: str

    @property
    def stack(self) -> str:
        """The stack's name, ``encoder`` or ``decoder``: what a plan calls it."""
        return "decoder" if self.path.endswith("decoder.layers") else "encoder"

    @property
    def key(self) -> str:
        """The key in the state dict."""
        return f"{self.path}.{self.layer}.{self.name}"


def locate(key: str) -> Place | None:
    """The place of a key in a stack, or ``None`` for one that belongs to no layer."""
    match = _LAYER_KEY.fullmatch(key)
    return Place(match[1], int(match[2]), match[3]) if match else None


def stack_depths(state: Iterable[str]) -> dict[str, int]:
    """The depth of each stack, encoder first: ``{"encoder": 6, "decoder": 6}``.

    Raises:
        ValueError: if there is no stack, a stack has a gap, or the stacks of several languages
        differ.
    """
    found: dict[str, dict[str, set[int]]] = {}
    for place in filter(None, map(locate, state)):
        found.setdefault(place.stack, {}).setdefault(place.path, set()).add(place.layer)
    if not found:
        raise ValueError(
            "there are no layers in it: no key begins with encoder.layers.N. or decoder.layers.N."
        )
    for stack, paths in found.items():
        for path, layers in paths.items():
            missing = [i for i in range(max(layers)) if i not in layers]
            if missing:
                name = stack if path == f"{stack}.layers" else path
                raise ValueError(f"the {name} lacks its layers {_join(missing)}")
        if len({len(layers) for layers in paths.values()}) > 1:
            each = ", ".join(f"{path} {len(layers)}" for path, layers in paths.items())
            raise ValueError(f"one plan is for {stack}s of one depth, got {each}")
    return {stack: len(next(iter(found[stack].values()))) for stack in STACKS if stack in found}


def prune_state(state: Mapping[str, Value], plan: PruningPlan) -> dict[str, Value]:
    """A state dict restricted to a plan: kept layers renumbered from 0, every other key copied."""
    new_index = {
        s: {old: new for new, old in enumerate(sel.kept)} for s, sel in plan.selections.items()
    }
    small = {}
    for key, value in state.items():
        place = locate(key)
        if place is None or place.stack not in new_index:
            small[key] = value
        elif place.layer in new_index[place.stack]:
            small[place._replace(layer=new_index[place.stack][place.layer]).key] = value
    return small


def other_lists(state: Iterable[str]) -> dict[str, int]:
    """Lists of layers that are not stacks, with their lengths: left whole, and named."""
    found: dict[str, set[int]] = {}
    for key in state:
        match = None if locate(key) else _OTHER_LIST.fullmatch(key)
        if match:
            found.setdefault(match[1], set()).add(int(match[2]))
    return {path: len(layers) for path, layers in found.items()}


def chunks(state: Mapping[str, Tensor]) -> dict[str, list[tuple[int, ...]]]:
    """The layers that share all weights, by storage: ``{"encoder": [(0, 1), (2, 3)]}``."""
    weights: dict[tuple[str, int], dict[str, int]] = {}
    for key, tensor in state.items():
        if place := locate(key):
            weights.setdefault((place.path, place.layer), {})[place.name] = tensor.data_ptr()
    groups: dict[tuple[str, frozenset[tuple[str, int]]], list[int]] = {}
    for (path, layer), pointers in weights.items():
        groups.setdefault((path, frozenset(pointers.items())), []).append(layer)
    shared: dict[str, list[tuple[int, ...]]] = {}
    for (path, _), layers in groups.items():
        chunk, found = tuple(sorted(layers)), shared.setdefault(Place(path, 0, "").stack, [])
        if len(chunk) > 1 and chunk not in found:
            found.append(chunk)
    return {stack: found for stack, found in shared.items() if found}


def check_chunks(state: Mapping[str, Tensor], plan: PruningPlan) -> None:
    """Refuse a plan that keeps half of a chunk of shared layers, which would save nothing.

    Raises:
        ValueError: naming every chunk that the plan parts.
    """
    errors = []
    for stack, found in chunks(state).items():
        kept = set(plan.kept.get(stack, ()))
        for chunk in found:
            if kept & set(chunk) and not kept >= set(chunk):
                got = _join(sorted(kept & set(chunk)))
                errors.append(
                    f"{stack}: the layers {_join(chunk)} share their weights, keep all or none "
                    f"of them; got {got}"
                )
    if errors:
        raise ValueError("; ".join(errors))


def _join(layers: Iterable[int]) -> str:
    return ",".join(map(str, layers))
