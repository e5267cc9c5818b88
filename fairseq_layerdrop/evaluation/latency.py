# SPDX-License-Identifier: MIT
"""How long a sub-network takes: measured, and predicted from a few measurements."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from fairseq_layerdrop.evaluation.decoding import Decoder, generates
from fairseq_layerdrop.evaluation.loading import Batches, Loaded
from fairseq_layerdrop.evaluation.prefix import Kept
from fairseq_layerdrop.modules.subnetwork import restricted

WARM_UP = 3


class Latency(NamedTuple):
    """Milliseconds a sentence, one at a time: the median over all runs, and the quartiles."""

    median: float
    quartiles: tuple[float, float]


class Stopwatch:
    """Times sub-networks on the same sentences, one at a time.

    A sequence-to-sequence model generates a fixed number of tokens, the mean length of the
    references; otherwise a broken sub-network that never ends a sentence would be slow for its
    quality, not for its depth. Other models run forward.

    Args:
        loaded: the model.
        batches: where the sentences come from, evenly spread over the lengths.
        sentences: how many.
        repeats: how many times each is run, after a warm-up.
        beam: of the generation.
    """

    def __init__(
        self,
        loaded: Loaded,
        batches: Batches,
        *,
        sentences: int = 20,
        repeats: int = 3,
        beam: int = 5,
    ) -> None:
        self.loaded = loaded
        self.repeats = repeats
        numbers = sorted(itertools.chain(*(sample["id"].tolist() for sample in batches)))
        step = max(1, len(numbers) // sentences)
        singles = Batches.collate(
            loaded, batches.dataset, [[n] for n in numbers[::step][:sentences]]
        )
        if generates(loaded):
            length = round(statistics.fmean(sample["target"].numel() for sample in singles))
            decoder = Decoder(loaded, beam=beam, exactly=length)
            self.description = f"{len(singles)} sentences, beam {beam}, {length} tokens each"
            run: Callable[[Any], object] = decoder.run
        else:
            self.description = f"{len(singles)} forwards"
            run = partial(loaded.criterion, loaded.model)
        self._runs = [partial(run, sample) for sample in singles]

    @torch.no_grad()
    def measure(self, kept: Kept) -> Latency:
        """Time one sub-network."""
        with restricted(self.loaded.model, kept):
            for run in self._runs[:WARM_UP]:
                run()
            times = [self._time(run) for run in self._runs * self.repeats]
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        return Latency(median, (low, high))

    def _time(self, run: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return 1000 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self.loaded.device.type == "cuda":
            torch.cuda.synchronize(self.loaded.device)


class LatencyModel:
    """Milliseconds a sentence as a linear function of the depths, fitted by least squares.

    ``base + encoder depth · encoder layer + decoder depth · decoder layer``
    """

    def __init__(self, measured: Mapping[tuple[int, ...], float]) -> None:
        rows = torch.tensor([[1.0, *depths] for depths in measured], dtype=torch.float64)
        times = torch.tensor([*measured.values()], dtype=torch.float64)
        solution = torch.linalg.lstsq(rows, times[:, None], driver="gelsd").solution
        self.base: float
        self.layers: list[float]
        self.base, *self.layers = solution[:, 0].tolist()

    @classmethod
    def fit(cls, stopwatch: Stopwatch, depths: Mapping[str, int]) -> "LatencyModel":
        """Measure the corners of the space: each stack whole and at one layer."""
        corners = itertools.product(*(sorted({1, depth}) for depth in depths.values()))
        return cls({corner: stopwatch.measure(_first(depths, corner)).median for corner in corners})

    def predict(self, counts: Sequence[int]) -> float:
        """Milliseconds a sentence for stacks of these depths, encoder first."""
        return self.base + sum(n * layer for n, layer in zip(counts, self.layers, strict=True))


def _first(depths: Mapping[str, int], counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
    return {stack: tuple(range(n)) for stack, n in zip(depths, counts, strict=True)}
