# SPDX-License-Identifier: MIT
"""Speed and memory: the latency model on known times, a stopwatch with a made-up clock."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import count_calls, subject

from fairseq_layerdrop.evaluation.latency import WARM_UP, Latency, LatencyModel, Stopwatch
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.memory import peak_of_forward
from fairseq_layerdrop.evaluation.search import predict
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.pruning.plan import PruningPlan


@pytest.fixture
def translation(official: Path) -> Subject:
    return subject(official / "checkpoint.pt", official / "data-bin")


class Known:
    """A stopwatch of a machine that takes 3 ms, and 0.5 ms or 2 ms a layer."""

    def __init__(self) -> None:
        self.asked: list[dict[str, tuple[int, ...]]] = []

    def measure(self, kept: dict[str, tuple[int, ...]]) -> Latency:
        self.asked.append(kept)
        each = {"encoder": 0.5, "decoder": 2.0}
        return Latency(3 + sum(each[stack] * len(layers) for stack, layers in kept.items()), (0, 0))


@pytest.mark.parametrize(
    "depths", [{"encoder": 6, "decoder": 6}, {"encoder": 12, "decoder": 2}], ids=str
)
def test_the_latency_model_finds_the_cost_of_each_layer_at_the_corners(
    depths: dict[str, int],
) -> None:
    stopwatch = Known()
    model = LatencyModel.fit(stopwatch, depths)
    assert [model.base, *model.layers] == pytest.approx([3, 0.5, 2])
    corners = {tuple(len(layers) for layers in kept.values()) for kept in stopwatch.asked}
    assert corners == {(e, d) for e in (1, depths["encoder"]) for d in (1, depths["decoder"])}
    assert len(stopwatch.asked) == 4
    assert model.predict([3, 2]) == pytest.approx(3 + 1.5 + 4)
    assert predict(model, PruningPlan.from_specs({"decoder": "first:1"}, depths)) == pytest.approx(
        3 + 0.5 * depths["encoder"] + 2
    )


def test_the_latency_model_of_one_stack() -> None:
    model = LatencyModel.fit(Known(), {"decoder": 8})
    assert [model.base, *model.layers] == pytest.approx([3, 2])
    single = LatencyModel.fit(Known(), {"decoder": 1})
    assert single.predict([1]) == pytest.approx(5)


def test_a_sentence_is_generated_at_a_fixed_length_by_the_layers_that_stay(
    translation: Subject,
) -> None:
    batches = Batches(translation.loaded, "test")
    stopwatch = Stopwatch(translation.loaded, batches, sentences=4, repeats=2, beam=2)
    numbers = [0, 25, 50, 75]
    length = round(
        sum(translation.loaded.task.dataset("test")[n]["target"].numel() for n in numbers) / 4
    )
    assert stopwatch.description == f"4 sentences, beam 2, {length} tokens each"
    calls = count_calls(translation.loaded.model)
    latency = stopwatch.measure({"encoder": (0, 5), "decoder": (2,)})
    runs = min(WARM_UP, 4) + 2 * 4
    assert set(calls) == {("encoder", 0), ("encoder", 5), ("decoder", 2)}
    assert calls.count(("encoder", 5)) == runs
    assert calls.count(("decoder", 2)) == runs * (length + 1)  # and the end of the sentence
    assert 0 < latency.quartiles[0] <= latency.median <= latency.quartiles[1]


def test_times_are_milliseconds_of_a_sentence(
    translation: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock adds this many seconds: runs take 1 s, 3 s, 5 s."""
    readings = iter([0, 1, 10, 13, 20, 25, 30, 37, 40, 49])
    stopwatch = Stopwatch(
        translation.loaded, Batches(translation.loaded, "test"), sentences=5, repeats=1, beam=1
    )
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    assert stopwatch.measure({"encoder": (0,), "decoder": (0,)}) == Latency(5000, (3000, 7000))


def test_more_layers_take_longer(translation: Subject) -> None:
    stopwatch = Stopwatch(
        translation.loaded, Batches(translation.loaded, "test"), sentences=5, repeats=2, beam=1
    )
    deep, shallow = (
        stopwatch.measure({"encoder": (0,), "decoder": tuple(range(n))}).median for n in (6, 1)
    )
    assert deep > 1.5 * shallow


# Memory


def test_the_peak_of_a_forward_is_what_its_tensors_hold() -> None:
    """Of a model with known tensors: 1 MiB each; a layer holds its input and its output."""
    from fairseq_layerdrop.evaluation.loading import Loaded

    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([Doubling() for _ in range(5)])

    def forward(model: Any, sample: Any) -> Any:
        x = sample["x"]
        for layer in model.decoder.layers:
            x = layer(x)
        return x.sum()

    loaded = Loaded(model, None, forward, torch.device("cpu"))
    sample = {"x": torch.ones(2**18)}
    assert peak_of_forward(loaded, {"decoder": (0,)}, sample) == pytest.approx(2**20, rel=0.01)
    for kept in [(0, 1), (0, 1, 2, 3, 4)]:
        assert peak_of_forward(loaded, {"decoder": kept}, sample) == pytest.approx(
            2 * 2**20, rel=0.01
        )


def test_the_peak_grows_with_the_batch_and_is_the_same_each_time(translation: Subject) -> None:
    plan = {"encoder": (0, 1), "decoder": (0,)}
    small, large = (
        Batches(translation.loaded, "test", max_sentences=n).samples[-1] for n in (10, 40)
    )
    sizes = [peak_of_forward(translation.loaded, plan, sample) for sample in (small, large, small)]
    assert sizes[0] == sizes[2]
    assert 2 < sizes[1] / sizes[0] < 8
