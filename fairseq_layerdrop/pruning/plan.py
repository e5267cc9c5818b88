# SPDX-License-Identifier: MIT
"""What stays: a selection of layers for one stack, a plan for a whole model.

A SPEC is the one notation for layers, wherever a flag, a config or a function takes some (0-based):

- ``0,2,4``: these layers
- ``0-3,8``: ranges, both ends included
- ``every:2``, ``even:6``, ``spread:6``, ``first:3``, ``last:3``: see
  :mod:`~fairseq_layerdrop.pruning.strategies`
- ``all``: the whole stack
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq_layerdrop.pruning.strategies import STRATEGIES

STACKS = ("encoder", "decoder")

_INDEX = re.compile(r"-?\d+")
_RANGE = re.compile(r"(\d+)-(\d+)")
_RULE = re.compile(r"(\w+):(-?\d+)")


@dataclass(frozen=True)
class LayerSelection:
    """Which layers of one stack stay: ``kept`` of ``depth``, 0-based and ascending.

    Raises:
        ValueError: if an index is repeated, negative or out of range, or if nothing is kept.
    """

    depth: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        kept = tuple(sorted(self.kept))
        outside = [i for i in kept if not 0 <= i < self.depth]
        repeated = sorted(i for i, times in Counter(kept).items() if times > 1)
        if outside:
            raise ValueError(f"layers must lie in 0-{self.depth - 1}, got {_join(outside)}")
        if repeated:
            raise ValueError(
                f"layers of 0-{self.depth - 1} must not repeat, got {_join(repeated)} more than "
                "once"
            )
        if not kept:
            raise ValueError(f"at least one of the layers 0-{self.depth - 1} must stay, got none")
        object.__setattr__(self, "kept", kept)

    @classmethod
    def parse(cls, spec: str | int | Iterable[Any], depth: int) -> "LayerSelection":
        """Read a SPEC (a string, or any sequence of indices) for a stack of ``depth`` layers.

        >>> LayerSelection.parse("0-2,5", depth=6).kept
        (0, 1, 2, 5)
        """
        text = str(spec) if isinstance(spec, (str, int)) else _join(spec)
        text = text.strip().strip("[]()").strip()
        if text == "all":
            return cls(depth, tuple(range(depth)))
        rule = _RULE.fullmatch(text)
        if rule:
            return cls(depth, _strategy(rule[1])(depth, int(rule[2])))
        items = [item.strip() for item in text.split(",")] if text else []
        return cls(depth, tuple(i for item in items for i in _indices(item, text, depth)))

    @property
    def removed(self) -> tuple[int, ...]:
        """The layers that go."""
        return tuple(i for i in range(self.depth) if i not in self.kept)

    @property
    def is_whole(self) -> bool:
        """Whether everything stays."""
        return len(self.kept) == self.depth

    def compose(self, inner: "LayerSelection") -> "LayerSelection":
        """Prune twice: ``inner`` selects among the layers that ``self`` kept."""
        if inner.depth != len(self.kept):
            raise ValueError(
                f"the second selection must be of {len(self.kept)} layers, got one of {inner.depth}"
            )
        return LayerSelection(self.depth, tuple(self.kept[i] for i in inner.kept))

    def __str__(self) -> str:
        return "all" if self.is_whole else _join(self.kept)


@dataclass(frozen=True)
class PruningPlan:
    """What stays of a model: a selection for each stack; ``None`` for a stack it lacks.

    ``others`` are lists of layers that are neither the encoder's nor the decoder's, by their path;
    one that is not named stays whole.
    """

    encoder: LayerSelection | None = None
    decoder: LayerSelection | None = None
    others: tuple[tuple[str, LayerSelection], ...] = ()

    @classmethod
    def of(cls, selections: Mapping[str, LayerSelection]) -> "PruningPlan":
        """The plan of these selections, by stack or path."""
        others = tuple((path, s) for path, s in selections.items() if path not in STACKS)
        return cls(selections.get("encoder"), selections.get("decoder"), others)

    @classmethod
    def everything(cls, depths: Mapping[str, int]) -> "PruningPlan":
        """The plan that removes nothing of a model of ``{"encoder": 6, …}`` layers."""
        return cls.of({stack: LayerSelection(n, tuple(range(n))) for stack, n in depths.items()})

    @classmethod
    def from_specs(cls, specs: dict[str, Any], depths: dict[str, int]) -> "PruningPlan":
        """The plan of ``{"encoder": SPEC, …}`` for a model of ``{"encoder": 6, …}`` layers.

        A stack that is not named (or named ``None``) stays whole. Other lists of layers are named
        by their paths.

        Raises:
            ValueError: one message that names every stack whose SPEC does not fit.
        """
        selections, errors = {}, []
        for stack, spec in specs.items():
            if spec is not None and stack not in depths:
                errors.append(f"{stack}: the model has no such stack (it has {_join(depths)})")
        for stack, depth in depths.items():
            spec = specs.get(stack)
            try:
                selections[stack] = LayerSelection.parse("all" if spec is None else spec, depth)
            except ValueError as error:
                errors.append(f"{stack}: {error}")
        if errors:
            raise ValueError("; ".join(errors))
        return cls.of(selections)

    @classmethod
    def parse(cls, text: str, depths: dict[str, int]) -> "PruningPlan":
        """Read a plan: ``ENC/DEC`` (two SPECs), ``6+3`` for ``even:6/even:3``, or one SPEC.

        Args:
            text: the plan.
            depths: of the model it is for, e.g. ``{"encoder": 6, "decoder": 6}``.

        Raises:
            ValueError: if it is none for these stacks, or one message that names every stack whose
            SPEC does not fit.

        >>> str(PruningPlan.parse("6+3", {"encoder": 6, "decoder": 6}))
        'all/0,2,4'
        """
        return cls.from_specs(split_plan(text, depths), depths)

    @property
    def selections(self) -> dict[str, LayerSelection]:
        """The selections by stack, encoder first, then those of other lists by path."""
        named = {"encoder": self.encoder, "decoder": self.decoder, **dict(self.others)}
        return {stack: selection for stack, selection in named.items() if selection is not None}

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The layers that stay, by stack: what the room of ``modules`` takes."""
        return {stack: selection.kept for stack, selection in self.selections.items()}

    @property
    def is_whole(self) -> bool:
        """Whether everything stays."""
        return all(selection.is_whole for selection in self.selections.values())

    def compose(self, inner: "PruningPlan") -> "PruningPlan":
        """Prune twice: ``inner`` is a plan for the model that ``self`` leaves."""
        mine, theirs = self.selections, inner.selections
        if mine.keys() & set(STACKS) != theirs.keys() & set(STACKS):
            raise ValueError(f"both plans must have the stacks {_join(mine)}, got {_join(theirs)}")
        composed = {**theirs, **mine}
        for stack in mine.keys() & theirs.keys():
            composed[stack] = mine[stack].compose(theirs[stack])
        return PruningPlan.of(composed)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain containers: ``{"encoder": {"depth": 6, "kept": [0, 2, 4]}, …}``."""
        return {
            s: {"depth": sel.depth, "kept": list(sel.kept)} for s, sel in self.selections.items()
        }

    @classmethod
    def from_json(cls, data: dict[str, dict[str, Any]]) -> "PruningPlan":
        """The inverse of :meth:`to_json`."""
        return cls.of(
            {s: LayerSelection(sel["depth"], tuple(sel["kept"])) for s, sel in data.items()}
        )

    def __str__(self) -> str:
        stacks = [selection for selection in (self.encoder, self.decoder) if selection]
        return "/".join([*map(str, stacks), *(f"{path}={kept}" for path, kept in self.others)])


def split_plan(text: str, depths: Iterable[str]) -> dict[str, str]:
    """The SPEC of each stack in a plan's text: ``{"encoder": "all", "decoder": "every:2"}``.

    Raises:
        ValueError: if there are more or fewer than the model has stacks.
    """
    text = text.strip()
    short = re.fullmatch(r"(\d+)\+(\d+)", text)
    parts = [f"even:{n}" for n in short.groups()] if short else text.split("/")
    stacks = [stack for stack in STACKS if stack in depths]
    if len(parts) != len(stacks):
        form = "ENC/DEC or N+M" if len(stacks) == 2 else "one SPEC"
        raise ValueError(f"a plan for {' and '.join(stacks)} is {form}, got {text!r}")
    return dict(zip(stacks, parts, strict=True))


def _join(items: Iterable[Any]) -> str:
    return ",".join(str(item) for item in items)


def _strategy(name: str) -> Any:
    if name not in STRATEGIES:
        raise ValueError(f"a strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def _indices(item: str, spec: str, depth: int) -> tuple[int, ...]:
    """One comma-separated item of a SPEC: an index or a range."""
    if _INDEX.fullmatch(item):
        return (int(item),)
    ends = _RANGE.fullmatch(item)
    if not ends:
        names = ", ".join(f"{name}:N" for name in STRATEGIES)
        raise ValueError(
            f"a layer list is like 0,2,4 or 0-3,8, or one of {names}, all; got {spec!r}"
        )
    low, high = int(ends[1]), int(ends[2])
    if low > high:
        raise ValueError(f"a range must ascend, got {item!r}")
    if high >= depth:
        raise ValueError(f"layers must lie in 0-{depth - 1}, got {item!r}")
    return tuple(range(low, high + 1))
