# SPDX-License-Identifier: MIT
"""Many sub-networks in one pass over a batch: plans with the same first layers share their work.

The kept layers of the plans are the branches of a trie. It is walked depth-first, one layer
computed at each node and one activation held a level; where a plan ends, the model's own forward
runs with a stand-in for its layers that gives the activation of that node. With an encoder and a
decoder the encoder's trie is walked first, and at each of its ends the decoder's, over that one
encoder output. A 6+6 model has 3,969 sub-networks: one by one they run 24,192 layers a batch, this
way 63 + 63·63 = 4,032.

No forward of fairseq's is copied, so this holds for any model whose stacks
:mod:`~fairseq_layerdrop.modules.subnetwork` finds; where a stack is several modules (one a
language) nothing is shared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from fairseq_layerdrop.modules.layer_drop import LayerDropList
from fairseq_layerdrop.modules.subnetwork import Stack, depths, restricted, stacks

Kept = Mapping[str, Sequence[int]]
"""The layers that stay, by stack, encoder first: ``{"encoder": (0, 2), "decoder": (0,)}``."""
Layers = tuple[int, ...]
Result = TypeVar("Result")


def run_each(
    model: Any, plans: Sequence[Kept], run: Callable[[], Result]
) -> Iterator[tuple[int, Result]]:
    """Call ``run`` (one forward on one batch) for each plan; yield the plan's number and result.

    The results come in the order of the trie. The model must be in evaluation, without gradients.

    Raises:
        ValueError: if a plan does not name the stacks of the model, or the model does not run its
        layers once.
    """
    where = stacks(model)
    _check(plans, depths(model))
    if len(plans) == 1 or any(len(modules) > 1 for modules in where.values()):
        yield from run_one_by_one(model, plans, run)
        return
    numbers: dict[tuple[Layers, ...], list[int]] = {}
    for number, plan in enumerate(plans):
        numbers.setdefault(tuple(tuple(plan[stack]) for stack in where), []).append(number)
    walk = _walk_one if len(where) == 1 else _walk_two
    for kept, result in walk(model, [modules[0] for modules in where.values()], list(numbers), run):
        for number in numbers[kept]:
            yield number, result


def run_one_by_one(
    model: nn.Module, plans: Sequence[Kept], run: Callable[[], Result]
) -> Iterator[tuple[int, Result]]:
    """The same with nothing shared: for criterions that read the decoder's attention."""
    for number, plan in enumerate(plans):
        with restricted(model, plan):
            result = run()
        yield number, result


def _check(plans: Sequence[Kept], model_depths: Mapping[str, int]) -> None:
    """Refuse a plan that does not fit the model."""
    for plan in plans:
        if plan.keys() != model_depths.keys():
            raise ValueError(
                f"a plan must name the model's stacks, {', '.join(model_depths)}, got {dict(plan)}"
            )
        for stack, kept in plan.items():
            if not kept or not all(0 <= i < model_depths[stack] for i in kept):
                raise ValueError(
                    f"{stack}: a plan keeps layers of 0-{model_depths[stack] - 1}, got {list(kept)}"
                )


def _walk_one(
    _: nn.Module,
    where: Sequence[Stack],
    plans: Sequence[tuple[Layers, ...]],
    run: Callable[[], Result],
) -> Iterator[tuple[tuple[Layers, ...], Result]]:
    for kept, result in _walk(where[0], [plan[0] for plan in plans], run):
        yield (kept,), result


def _walk_two(
    model: Any,
    where: Sequence[Stack],
    plans: Sequence[tuple[Layers, ...]],
    run: Callable[[], Result],
) -> Iterator[tuple[tuple[Layers, ...], Result]]:
    decoders: dict[Layers, list[Layers]] = {}
    for encoder, decoder in plans:
        decoders.setdefault(encoder, []).append(decoder)
    encode = _first_call(model.encoder, run)
    for encoder, output in _walk(where[0], list(decoders), encode):
        with _answering(model.encoder, output):
            for decoder, result in _walk(where[1], decoders[encoder], run):
                yield (encoder, decoder), result


class _Node:
    """A layer that runs after those above it; ``ends`` if a plan ends here."""

    def __init__(self) -> None:
        self.after: dict[int, _Node] = {}
        self.ends = False


def _trie(plans: Sequence[Layers]) -> _Node:
    root = _Node()
    for plan in plans:
        node = root
        for layer in plan:
            node = node.after.setdefault(layer, _Node())
        node.ends = True
    return root


def _walk(
    stack: Any, plans: Sequence[Layers], run: Callable[[], Result]
) -> Iterator[tuple[Layers, Result]]:
    """Call ``run`` once for each of these lists of layers of one stack, depth-first."""
    layers = stack.layers
    stand_in = _StandIn()
    kind = LayerDropList if isinstance(layers, LayerDropList) else nn.ModuleList
    stack.layers = kind([stand_in])
    try:
        call = stand_in.call_of(run)
        for kept, output in _outputs(layers, _trie(plans), call, ()):
            yield kept, stand_in.giving(output, run)
    finally:
        stack.layers = layers


class _Call(NamedTuple):
    """How the model calls a layer: each with the same arguments, but for the first."""

    x: Tensor
    others: tuple[Any, ...]
    named: dict[str, Any]


def _outputs(layers: Any, node: _Node, call: _Call, above: Layers) -> Iterator[tuple[Layers, Any]]:
    for index, below in node.after.items():
        output = layers[index](call.x, *call.others, **call.named)
        kept = (*above, index)
        if below.ends:
            yield kept, output
        if below.after:
            x = output[0] if isinstance(output, tuple) else output
            yield from _outputs(layers, below, call._replace(x=x), kept)


class _Reached(Exception):
    """Ends a forward at the place that it had to reach."""


class _StandIn(nn.Module):
    """Stands in for a stack's layers: records how the first is called, then gives an output."""

    def __init__(self) -> None:
        super().__init__()
        self._call: _Call | None = None
        self._output: Any = None
        self._given = 0

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        if self._output is None:
            self._call = _Call(x, others, named)
            raise _Reached
        self._given += 1
        return self._output

    def call_of(self, run: Callable[[], Any]) -> _Call:
        """How the model calls its first layer."""
        with suppress(_Reached):
            run()
        if self._call is None:
            raise ValueError("the model must run its layers in each forward, got none")
        return self._call

    def giving(self, output: Any, run: Callable[[], Result]) -> Result:
        """What ``run`` returns where the layers give this output."""
        self._output, self._given = output, 0
        result = run()
        self._output = None
        if self._given != 1:
            raise ValueError(
                f"the model must run its layers once a forward, got {self._given} times: it is "
                "recurrent, or has no layers that can be left out"
            )
        return result


def _first_call(module: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls the module as ``run`` does first."""
    calls: list[Callable[[], Any]] = []

    def note(*others: Any, **named: Any) -> None:
        calls.append(lambda: type(module).forward(module, *others, **named))
        raise _Reached

    with forwarding(module, note), suppress(_Reached):
        run()
    return calls[0]


def _answering(module: Any, output: Any) -> Any:
    """A scope in which the module gives this output, whatever it is called with."""
    return forwarding(module, lambda *_, **__: output)


@contextmanager
def forwarding(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """A scope in which calls of the module run this function."""
    module.forward = forward  # an attribute of its own, before that of its class
    try:
        yield
    finally:
        del module.forward
