# SPDX-License-Identifier: MIT
"""Where the layers are: which keys belong to which layer, in any fairseq Transformer.

A list of layers is found by structure: keys ``PATH.N.NAME`` whose entries, from 0 on without a gap,
have the same names. These paths are the encoder's or the decoder's:

- ``encoder.layers``, ``decoder.layers``: transformer, transformer_lm, bart, wav2vec2, HuBERT
- ``encoder.sentence_encoder.layers``: roberta, X-MOD
- ``encoder.transformer_layers``, ``encoder.conformer_layers``, ``decoder.transformer_layers``:
  speech to text and to speech, text to speech
- ``encoder.encoder_fft_layers``, ``encoder.decoder_fft_layers``: fastspeech2
- ``models.de-en.encoder.layers``, …: multilingual_transformer, a stack a language, all cut alike
- ``w2v_encoder.w2v_model.encoder.layers``: wav2vec2 or HuBERT, fine-tuned with CTC;
  ``encoder.w2v_model…`` and ``encoder.w2v_encoder.w2v_model…``: the same before a decoder

Every other list (adaptors, convolutions, a second decoder) is left whole, unless a plan names it by
its path.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor

from fairseq_layerdrop.pruning.plan import STACKS, PruningPlan

Value = TypeVar("Value")

_PATH = re.compile(
    r"(?:models\.[^.]+\.)?(?:encoder|decoder|encoder\.sentence_encoder"
    r"|(?:(?:encoder\.)?w2v_encoder|encoder)\.w2v_model\.encoder)\.(?:transformer_|conformer_)?layers"
    r"|encoder\.(?:encoder|decoder)_fft_layers"
)
_LAYER_KEY = re.compile(rf"({_PATH.pattern})\.(\d+)\.(.+)")
_LIST_KEY = re.compile(r"((?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(\d+)\.(.+)")
_BANDS = re.compile(r"(.*\.)?(embed_tokens\.embeddings|adaptive_softmax\.tail)")
"""Lists of an adaptive embedding or softmax: an entry a band of words, no layers."""
_DECODER = re.compile(r"(.*\.)?decoder\.\w*layers|.*\.decoder_fft_layers")


class Place(NamedTuple):
    """Where a key's tensor is: ``("encoder.layers", 3, "fc1.bias")``."""

    path: str
    layer: int
    name: str

    @property
    def stack(self) -> str:
        """What a plan calls it: ``encoder`` or ``decoder``; of any other list the path."""
        if not _PATH.fullmatch(self.path):
            return self.path
        return "decoder" if _DECODER.fullmatch(self.path) else "encoder"

    @property
    def key(self) -> str:
        """The key in the state dict."""
        return f"{self.path}.{self.layer}.{self.name}"


def locate(key: str, others: Collection[str] = ()) -> Place | None:
    """The place of a key in a stack, or ``None`` for one that belongs to no layer.

    Args:
        key: of a state dict.
        others: the paths of lists that are to count as stacks, too.
    """
    match = _LAYER_KEY.fullmatch(key)
    if not match and others:
        match = _LIST_KEY.fullmatch(key)
        match = match if match and match[1] in others else None
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
    others, small = dict(plan.others), {}
    for key, value in state.items():
        place = locate(key, others)
        if place is None or place.stack not in new_index:
            small[key] = value
        elif place.layer in new_index[place.stack]:
            small[place._replace(layer=new_index[place.stack][place.layer]).key] = value
    return small


def other_lists(state: Iterable[str]) -> dict[str, int]:
    """Lists of layers that are not stacks, with their lengths.

    They are left whole unless a plan names them by their path, and should be named.
    """
    found: dict[str, dict[int, set[str]]] = {}
    for key in state:
        match = None if locate(key) else _LIST_KEY.fullmatch(key)
        if match and not _BANDS.fullmatch(match[1]):
            found.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    return {path: len(entries) for path, entries in found.items() if _is_list(entries)}


def _is_list(entries: Mapping[int, set[str]]) -> bool:
    """Whether these are entries of one kind, numbered from 0 without a gap."""
    names = list(entries.values())
    alike = all(entry == names[0] for entry in names)
    return len(names) > 1 and alike and sorted(entries) == list(range(len(names)))


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
