# SPDX-License-Identifier: MIT
"""Which layers run in one training step: rates in, the indices of the active layers out.

Every layer is a group of weights with one Bernoulli draw (Fan et al. 2019, section 3.1),
conditioned on at least ``min_layers`` of them running: the paper has no such minimum, and at rate
0.5 six layers would all be gone in 1.6 % of the steps. Nothing is rescaled.

The draws come from a generator of their own, seeded by a key, never from torch's global one:
dropout and sampling do not move when LayerDrop is switched on, all ranks agree, and a resumed run
repeats them.
"""

import hashlib
from collections.abc import Sequence

import torch


def uniform_rates(depth: int, rate: float) -> tuple[float, ...]:
    """The same rate for every layer, as in the paper.

    Raises:
        ValueError: if the rate is not a probability.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a drop rate must lie in [0, 1], got {rate}")
    return (float(rate),) * depth


def linear_rates(depth: int, rate: float) -> tuple[float, ...]:
    """Rates that grow with depth: layer l of L (from 1) has l/L of ``rate``.

    The rule of Stochastic Depth (Huang et al. 2016, section 3), which the paper names as its
    inspiration; the mean is ``rate * (L + 1) / (2 * L)``.

    Raises:
        ValueError: if the rate is not a probability.
    """
    return tuple(r * (i + 1) / depth for i, r in enumerate(uniform_rates(depth, rate)))


def exponential_rates(depth: int, rate: float) -> tuple[float, ...]:
    """Rates that grow exponentially with depth, from 0 at the first layer to ``rate`` at the last.

    LayerSkip's profile (Elhoushi et al. 2024, arXiv 2404.16710, section 4.1): layer l of L (from 0)
    has ``rate * (exp(l * ln 2 / (L - 1)) - 1)``. A single layer is the last one.

    Raises:
        ValueError: if the rate is not a probability.
    """
    shares = [2 ** (i / (depth - 1)) - 1 for i in range(depth)] if depth > 1 else [1.0] * depth
    return tuple(r * share for r, share in zip(uniform_rates(depth, rate), shares, strict=True))


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends only on ``key``, hashed so that near keys differ."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_active(
    rates: Sequence[float], *, min_layers: int, generator: torch.Generator
) -> tuple[int, ...]:
    """Draw the layers that run: independent draws, given that at least ``min_layers`` do.

    Exact and without a retry loop: layer by layer, with the probability that the layers behind it
    still reach the minimum. Where every rate is 1 the limit is taken (``min_layers`` layers, chosen
    evenly).
    """
    keep = _keep_probabilities(rates, min_layers)
    tails = _tail_probabilities(keep, min_layers)
    uniform = torch.rand(len(keep), generator=generator, dtype=torch.float64).tolist()
    active: list[int] = []
    for i, probability in enumerate(keep):
        missing = max(min_layers - len(active), 0)
        if uniform[i] < probability * tails[i + 1][max(missing - 1, 0)] / tails[i][missing]:
            active.append(i)
    return tuple(active)


def expected_depth(rates: Sequence[float], *, min_layers: int) -> float:
    """The mean number of layers that run in a training step, the minimum taken into account."""
    counts = [1.0]  # counts[n]: the probability that n of the layers so far run
    for probability in _keep_probabilities(rates, min_layers):
        run = [0.0, *counts]
        skip = [*counts, 0.0]
        counts = [probability * r + (1 - probability) * s for r, s in zip(run, skip, strict=True)]
    allowed = counts[min_layers:]
    return sum(n * p for n, p in enumerate(allowed, start=min_layers)) / sum(allowed)


def _keep_probabilities(rates: Sequence[float], min_layers: int) -> list[float]:
    """``1 - rate``, with rate 1 taken as a limit: a minimum must stay reachable."""
    floor = 0.0
    if min_layers:
        floor = max(1e-9, 10.0 ** (-280 / min_layers))  # its power must not vanish
    return [max(1 - rate, floor) for rate in rates]


def _tail_probabilities(keep: Sequence[float], most: int) -> list[list[float]]:
    """``table[i][n]``: the probability that at least ``n`` of the layers from ``i`` on run."""
    row = [1.0] + [0.0] * most
    table = [row]
    for probability in reversed(keep):
        row = [1.0] + [
            probability * row[n - 1] + (1 - probability) * row[n] for n in range(1, most + 1)
        ]
        table.append(row)
    return table[::-1]
