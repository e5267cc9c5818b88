# SPDX-License-Identifier: MIT
"""Rules that choose layers: a depth and a target in, 0-based indices out.

A strategy is a function ``(depth, n) -> indices``; :data:`STRATEGIES` names them for the ``name:n``
form of a SPEC (see :class:`~fairseq_layerdrop.pruning.plan.LayerSelection`).
"""

from collections.abc import Callable

Strategy = Callable[[int, int], tuple[int, ...]]


def every(depth: int, step: int) -> tuple[int, ...]:
    """Every ``step``-th layer, the first included: ``0, step, 2·step, …``.

    For ``step = 2`` this is Every Other (Fan et al. 2019, section 3.2). The paper drops the layers
    at depths ``d`` ≡ 0 mod 2 and does not say where it counts from; counted from 1, as here, the
    input layer stays, as in fairseq's own example (``0,2,4,…`` of 16).
    """
    _check_target("every", step, depth)
    return tuple(range(0, depth, step))


def even(depth: int, layers: int) -> tuple[int, ...]:
    """N layers spread evenly: ``floor(i · depth / N)``, as in fairseq's LayerDrop README."""
    _check_target("even", layers, depth)
    return tuple(i * depth // layers for i in range(layers))


def spread(depth: int, layers: int) -> tuple[int, ...]:
    """``layers`` layers evenly spread with the first and the last included (halves round up)."""
    _check_target("spread", layers, depth)
    if layers == 1 and depth > 1:
        raise ValueError(
            "spread:N keeps the first and the last layer, so N must be at least 2, got 1"
        )
    gaps = max(layers - 1, 1)
    return tuple((2 * i * (depth - 1) + gaps) // (2 * gaps) for i in range(layers))


def first(depth: int, layers: int) -> tuple[int, ...]:
    """The ``layers`` layers next to the input."""
    _check_target("first", layers, depth)
    return tuple(range(layers))


def last(depth: int, layers: int) -> tuple[int, ...]:
    """The ``layers`` layers next to the output."""
    _check_target("last", layers, depth)
    return tuple(range(depth - layers, depth))


STRATEGIES: dict[str, Strategy] = {f.__name__: f for f in (every, even, spread, first, last)}


def _check_target(rule: str, target: int, depth: int) -> None:
    if not 1 <= target <= depth:
        raise ValueError(f"{rule} takes a number from 1 to the depth, {depth}, got {target}")
