# SPDX-License-Identifier: MIT
"""A list of layers of which some are skipped in training (LayerDrop, Fan et al. 2019, section 3.2).

It takes the place of fairseq's ``LayerDropModuleList``, in which every loop over the list is a lottery.
Here a loop sees all layers, always; only inside :meth:`LayerDropList.running` do the dropped ones step
aside, each replaced by a stand-in that passes its input on.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_layerdrop.modules.masks import draw_active, expected_depth, keyed_generator


class LayerDropList(nn.ModuleList):
    """A ``ModuleList`` with an explicit set of active layers; its state dict is that of a plain list.

    A model's forward draws once and runs inside the scope::

        active = self.layers.draw()
        with self.layers.running(active):
            for layer in self.layers:  # depth items, whatever was drawn
                x = layer(x)

    Args:
        layers: the layers, in order.
        rates: each layer's probability of being skipped in a training step.
        min_layers: at least so many layers run in every step (0 allowed).
        seed: with the update, the forward within the update and ``stack``, the key of the draws.
        stack: the stack's name, so that encoder and decoder draw apart.
        skipped: what a skipped layer's call returns, made from its input: identity in an encoder,
            ``(x, None, None)`` in a fairseq decoder.

    Raises:
        ValueError: if ``rates`` are no probabilities, one a layer, or the minimum does not fit the depth.
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
    ) -> None:
        super().__init__(layers)
        self.rates = tuple(rates) or (0.0,) * len(self)
        if len(self.rates) != len(self):
            raise ValueError(f"there must be one rate a layer, {len(self)}, got {len(self.rates)}")
        if not all(0 <= rate <= 1 for rate in self.rates):
            raise ValueError(f"a drop rate must lie in [0, 1], got {self.rates}")
        if not 0 <= min_layers <= len(self):
            raise ValueError(f"the minimum of layers must lie in 0-{len(self)}, the depth, got {min_layers}")
        self.min_layers = min_layers
        self.seed = seed
        self.stack = stack
        self.keep: tuple[int, ...] | None = None  # a fixed sub-network; None: all layers, or the draw
        self._skipped = skipped
        self._running: frozenset[int] | None = None
        self._update = 0
        self._draws = 0  # forwards since the update began: micro-batches, or a teacher's pass

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer, several times an update: only a change starts a new count."""
        if num_updates != self._update:
            self._update, self._draws = num_updates, 0

    @property
    def drops(self) -> bool:
        """Whether a training step may skip a layer."""
        return any(self.rates) and self.min_layers < len(self)

    @property
    def expected_depth(self) -> float:
        """The mean number of layers that run in a training step."""
        return expected_depth(self.rates, min_layers=self.min_layers)

    def draw(self) -> tuple[int, ...]:
        """The layers that the next forward runs. Outside training nothing is random and nothing is drawn."""
        if self.keep is not None:
            return self.keep
        if not (self.training and self.drops):
            return tuple(range(len(self)))
        generator = keyed_generator(self.seed, self._update, self._draws, self.stack)
        self._draws += 1
        return draw_active(self.rates, min_layers=self.min_layers, generator=generator)

    @contextmanager
    def running(self, active: Sequence[int]) -> Iterator[None]:
        """Within this scope a loop over the list meets stand-ins at the places of the other layers."""
        before, self._running = self._running, frozenset(active)
        try:
            yield
        finally:
            self._running = before

    def __iter__(self) -> Iterator[Any]:
        for i, layer in enumerate(self._modules.values()):
            yield layer if self._running is None or i in self._running else self._stand_in(layer)

    def __getitem__(self, index: int | slice) -> Any:
        # ModuleList would build a slice with our constructor; a part of the list is a plain list.
        if isinstance(index, slice):
            return nn.ModuleList(list(self._modules.values())[index])
        return super().__getitem__(index)

    def _stand_in(self, layer: nn.Module | None) -> Any:
        assert layer is not None
        parameters = tuple(layer.parameters()) if self.training else ()

        def pass_on(x: Tensor, *others: Any, **_: Any) -> Any:
            # Where no layer runs at all, only the stand-ins tie what else a layer reads (a decoder's: the encoder's
            # output) to the loss.
            alone = [o for o in others if isinstance(o, Tensor) and o.requires_grad] if not self._running else []
            x = PassThrough.apply(x, *parameters, *alone) if parameters else x  # type: ignore[no-untyped-call]
            return self._skipped(x) if self._skipped else x

        return pass_on

    def __repr__(self) -> str:
        # ModuleList has a printer of its own, which leaves extra_repr out.
        return super().__repr__().replace("(", f"(rates={self.rates}, min_layers={self.min_layers}", 1)


class PassThrough(torch.autograd.Function):
    """``x``, unchanged, with other tensors (a skipped layer's parameters) joined to the graph by gradients of zero.

    Zeros, not nothing: data-parallel training needs a gradient for every parameter at every step, and an
    optimizer that sees none on one rank and some on another would move the copies apart. No layer is
    computed for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *joined: Tensor) -> Tensor:
        ctx.shapes = [(t.shape, t.dtype, t.device, t.requires_grad) for t in joined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (
            torch.zeros(shape, dtype=dtype, device=device) if needed else None
            for shape, dtype, device, needed in ctx.shapes
        )
        return (*gradients, *zeros)
