# SPDX-License-Identifier: MIT
"""A list of layers of which some are skipped in training (LayerDrop, Fan et al. 2019, section 3.2).

It replaces fairseq's ``LayerDropModuleList``, which skips layers at random in every loop over it.
Here a loop always sees all layers; only inside :meth:`LayerDropList.running` are the dropped ones
replaced, each by a stand-in that passes its input on.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from fairseq_layerdrop.modules.learned import KeepProbabilityGradient, LearnedRates
from fairseq_layerdrop.modules.masks import draw_active, expected_depth, keyed_generator
from fairseq_layerdrop.modules.structures import LayerStep, StructureRates, draw_inside


class Step(NamedTuple):
    """What one forward runs: which layers, and what inside each of them."""

    active: tuple[int, ...]
    inside: tuple[LayerStep, ...] = ()
    """One item a layer of the list; empty where nothing is dropped inside layers."""
    keep: Tensor | None = None
    """The probabilities that the layers run, where these are learned."""
    probe: int | None = None
    """The dropped layer that is run aside, to learn what it costs to drop it."""


class LayerDropList(nn.ModuleList):
    """A ``ModuleList`` with explicit active layers; its state dict is that of a plain list.

    A model's forward draws once and runs inside the scope::

        step = self.layers.draw()
        with self.layers.running(step):
            for layer in self.layers:  # depth items, whatever was drawn
                x = layer(x)

    Where things are dropped inside layers, a layer is called with ``keep``, an
    :class:`~fairseq_layerdrop.modules.structures.LayerStep`.

    Args:
        layers: the layers, in order.
        rates: each layer's probability of being skipped in a training step.
        min_layers: at least this many layers run in every step (0 allowed).
        seed: the key of the draws, with the update, the forward within the update and ``stack``.
        stack: the stack's name, so that encoder and decoder draw independently.
        skipped: what a skipped layer's call returns, made from its input: identity in an encoder,
            ``(x, None, None)`` in a fairseq decoder.
        warmup: all rates grow from 0 over this many updates.
        chunk: this many neighbours share their weights, and run together or not at all.
        structures: the rates of what is inside the layers, and the number of attention heads.
        learned: gives the rates instead of ``rates``; a module of the stack, not of this list.
        rank: of this process, if each draws for itself; without it all processes draw alike.

    Raises:
        ValueError: if ``rates`` are not one probability a layer, or the minimum does not fit.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module] = (),
        *,
        rates: Sequence[float] = (),
        min_layers: int = 1,
        seed: int = 0,
        stack: str = "layers",
        skipped: Any = None,
        warmup: int = 0,
        chunk: int = 1,
        structures: tuple[StructureRates, int] = (StructureRates(), 1),
        learned: LearnedRates | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(layers)
        self.rates = tuple(rates) or (0.0,) * len(self)
        if len(self.rates) != len(self):
            raise ValueError(f"there must be one rate a layer, {len(self)}, got {len(self.rates)}")
        if not all(0 <= rate <= 1 for rate in self.rates):
            raise ValueError(f"a drop rate must lie in [0, 1], got {self.rates}")
        if not 0 <= min_layers <= len(self):
            raise ValueError(
                f"the minimum of layers must lie in 0-{len(self)}, the depth, got {min_layers}"
            )
        self.min_layers = min_layers
        self.seed = seed
        self.stack = stack
        self.rank = rank
        self.keep: tuple[int, ...] | None = None  # a fixed sub-network; else all layers, or a draw
        self.warmup = warmup
        self.chunk = chunk
        self.structures, self._heads = structures
        self._learned = (learned,)  # in a tuple, or Module would take it for a layer
        self._skipped = skipped
        self._running: Step | None = None
        self._update = 0
        self._draws = 0  # forwards since the update began: micro-batches, or a teacher's pass

    def set_num_updates(self, num_updates: int) -> None:
        """Start a new count if the update is new; fairseq's trainer calls this several times."""
        if num_updates != self._update:
            self._update = num_updates
            self._draws = 0

    @property
    def learned(self) -> LearnedRates | None:
        """Where the rates come from, if they are learned."""
        return self._learned[0]

    @property
    def drops(self) -> bool:
        """Whether a training step may skip a layer."""
        return (any(self.rates) or self.learned is not None) and self.min_layers < len(self)

    @property
    def expected_depth(self) -> float:
        """The mean number of layers that run in a training step, after the warm-up."""
        return self.chunk * expected_depth(self.rates[:: self.chunk], min_layers=self._min_chunks)

    def draw(self) -> Step:
        """Draw what the next forward runs. Outside training nothing is random."""
        if self.keep is not None:
            return Step(self.keep)
        everything = tuple(range(len(self)))
        if not self.training or not (self.drops or self.structures.drop):
            return Step(everything)
        key: tuple[int | str, ...] = (self.seed, self._update, self._draws, self.stack)
        if self.rank is not None:
            key = (*key, self.rank)
        self._draws += 1
        warm = min(1.0, self._update / self.warmup) if self.warmup else 1.0
        rates = [warm * rate for rate in self.rates[:: self.chunk]]
        keep = None
        if self.learned is not None:
            keep = 1 - warm * self.learned.rates()
            rates = (1 - keep).tolist()
        active = everything
        if self.drops:
            chunks = draw_active(
                rates, min_layers=self._min_chunks, generator=keyed_generator(*key)
            )
            active = tuple(i for i in everything if i // self.chunk in chunks)
        inside: tuple[LayerStep, ...] = ()
        if self.structures.drop:
            inside = draw_inside(self.structures.at(warm), len(self), self._heads, key)
        probe = None if keep is None else self._draw_probe(active, key)
        return Step(active, inside, keep, probe)

    def _draw_probe(self, active: Sequence[int], key: Sequence[int | str]) -> int | None:
        dropped = [i for i in range(len(self)) if i not in active]
        if not dropped:
            return None
        generator = keyed_generator(*key, "probe")
        return dropped[int(torch.randint(len(dropped), (), generator=generator))]

    @property
    def _min_chunks(self) -> int:
        return -(-self.min_layers // self.chunk)

    @contextmanager
    def running(self, step: Step | Sequence[int]) -> Iterator[None]:
        """In this scope a loop over the list meets stand-ins instead of layers that do not run."""
        step = step if isinstance(step, Step) else Step(tuple(step))
        before = self._running
        self._running = step
        try:
            yield
        finally:
            self._running = before
        if self.learned is not None and step.keep is not None:
            self.learned.agree()  # here, not at the next draw: a checkpoint holds what all agree on

    def __iter__(self) -> Iterator[Any]:
        for i, layer in enumerate(self._modules.values()):
            yield layer if self._running is None else self._runner(i, layer, self._running)

    def __getitem__(self, index: int | slice) -> Any:
        # ModuleList would build a slice with our constructor; a part of the list is a plain list.
        if isinstance(index, slice):
            return nn.ModuleList(list(self._modules.values())[index])
        return super().__getitem__(index)

    def _runner(self, index: int, layer: Any, step: Step) -> Any:
        """What runs in a layer's place in one step."""
        if index not in step.active:
            run = self._stand_in(layer, step)
        elif step.inside:
            run = functools.partial(layer, keep=step.inside[index])
        else:
            run = layer
        if step.keep is None:
            return run
        return functools.partial(self._run_learned, index, layer, run, step)

    def _run_learned(
        self, index: int, layer: Any, run: Any, step: Step, x: Tensor, *others: Any, **named: Any
    ) -> Any:
        """Run a layer, or its stand-in, and learn from it what the layer is worth."""
        assert self.learned is not None and step.keep is not None
        chunk = index // self.chunk
        self.learned.observe(chunk, x)
        output = run(x, *others, **named)
        first, *rest = output if isinstance(output, tuple) else (output,)
        keep = float(step.keep.detach()[chunk])
        if index in step.active:
            first = _with_keep_gradient(first, x, first, step.keep[chunk], 1 / (2 * keep))
        elif index == step.probe:
            dropped = len(self) - len(step.active)
            f_of_x = probe_output(layer, x, *others, **named)
            first = _with_keep_gradient(
                first, x, f_of_x, step.keep[chunk], dropped / (2 * (1 - keep))
            )
        return (first, *rest) if rest else first

    def _stand_in(self, layer: nn.Module, step: Step) -> Any:
        parameters = tuple(layer.parameters()) if self.training else ()

        def pass_on(x: Tensor, *others: Any, **_: Any) -> Any:
            # Where no layer runs at all, only the stand-ins tie a layer's other inputs (in a
            # decoder the encoder's output) and what the draw depends on to the loss.
            untied = [o for o in (*others, step.keep) if isinstance(o, Tensor) and o.requires_grad]
            joined = parameters if step.active else (*parameters, *untied)
            x = pass_through(x, *joined) if parameters else x
            return self._skipped(x) if self._skipped else x

        return pass_on

    def __repr__(self) -> str:
        # ModuleList has a printer of its own, which leaves extra_repr out.
        rates = f"(rates={self.rates}, min_layers={self.min_layers}"
        return super().__repr__().replace("(", rates, 1)


@torch.no_grad()
def probe_output(layer: nn.Module, x: Tensor, *others: Any, **named: Any) -> Tensor:
    """What a layer would have given, with torch's random numbers left as they were."""
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        output = layer(x, *others, **named)
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _with_keep_gradient(
    output: Tensor, x: Tensor, f_of_x: Tensor, keep: Tensor, weight: float
) -> Tensor:
    found: Tensor = KeepProbabilityGradient.apply(output, x, f_of_x, keep, weight)  # type: ignore[no-untyped-call]
    return found


# Keep out of torch.compile: AOTAutograd would prune the unused parameters' gradients to None
# instead of zeros. torch.compiler.disable would import the compiler at once, a fifth of the time in
# which a program starts; this is what torch's own optimizers do.
@_disable_dynamo
def pass_through(x: Tensor, *joined: Tensor) -> Tensor:
    """``x``, unchanged, with other tensors joined to the graph by gradients of zero.

    Zeros, not nothing: data-parallel training needs a gradient for every parameter at every step,
    and an optimizer that sees none on one rank and some on another would move the copies apart. No
    layer is computed for it.
    """
    output: Tensor = _PassThrough.apply(x, *joined)  # type: ignore[no-untyped-call]
    return output


class _PassThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *joined: Tensor) -> Tensor:
        ctx.joined = joined
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        found: list[Tensor | None] = [*gradients]
        for tensor, need in zip(ctx.joined, needed, strict=True):
            found.append(torch.zeros_like(tensor) if need else None)
        return tuple(found)
