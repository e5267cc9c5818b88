# SPDX-License-Identifier: MIT
"""What a model computes of made-up input, for any model of fairseq's: to tell whether two are one.

Which input a model takes is found by trying: made-up words for text, noise for speech.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CLOSE = 1e-5
"""Outputs that differ by no more than this, relative to their greatest, are equal."""
_SENTENCES, _LENGTH, _FRAMES, _SAMPLES = 3, 7, 40, 4000

Probe = Callable[[Any, "Made"], Any]


class Made:
    """The made-up input: ids of words ``B x T``, with an end of sentence, and noise.

    Args:
        words: how many there are in the smaller dictionary.
        bands: of the features of speech.
        bins: of the spectrogram that a model writes.
        channels: the names of a dialogue's speakers.
    """

    def __init__(self, words: int, bands: int, bins: int, channels: Sequence[str] = ()) -> None:
        self.channels = channels
        generator = torch.Generator().manual_seed(1)
        size = (_SENTENCES, _LENGTH)
        most = max(5, min(words, 100))
        self.source, self.target = (
            torch.randint(4, most, size, generator=generator) for _ in range(2)
        )
        self.source[:, -1] = self.target[:, -1] = 2  # BART and others look for the end
        self.lengths = torch.full((_SENTENCES,), _LENGTH)
        self.wave = torch.randn(_SENTENCES, _SAMPLES, generator=generator)
        self.features = torch.randn(_SENTENCES, _FRAMES, bands, generator=generator)
        self.spectrogram = torch.randn(_SENTENCES, _LENGTH, bins, generator=generator)
        self.frames, self.samples = (torch.full((_SENTENCES,), n) for n in (_FRAMES, _SAMPLES))


def _languages(model: Any, made: Made) -> Any:
    return [part(made.source, made.lengths, made.target) for part in model.models.values()]


_PROBES: tuple[Probe, ...] = (
    _languages,
    lambda model, m: model(m.source, m.lengths, m.target, m.target),
    lambda model, m: model(m.source, m.lengths, m.target),
    lambda model, m: model(m.source),
    lambda model, m: model(m.source, src_lengths=m.lengths),
    lambda model, m: model(dict.fromkeys(m.channels, m.source)),
    lambda model, m: model(m.source, m.source.float(), m.source.float()),
    lambda model, m: model(m.features, m.frames, m.target),
    lambda model, m: model(m.features, m.frames, m.target, m.target),
    lambda model, m: model(m.wave, m.samples, m.target),
    lambda model, m: model(m.wave, m.samples, m.target, m.target),
    lambda model, m: model(m.features, m.frames, m.spectrogram, target_lengths=m.lengths),
    lambda model, m: model(m.features, m.frames, m.spectrogram, m.target, target_lengths=m.lengths),
    lambda model, m: model(m.source, m.lengths, m.spectrogram, target_lengths=m.lengths),
    lambda model, m: model.extract_features(m.wave, padding_mask=None, mask=False),
    lambda model, m: model(source=m.wave, padding_mask=None),
    lambda model, m: model(source=m.wave, padding_mask=None, prev_output_tokens=m.target),
    lambda model, m: model(source=m.wave),
)


def find_probe(model: nn.Module, made: Made) -> Probe | None:
    """The first probe that a model takes, and answers twice in the same way."""
    for probe in _PROBES:
        try:
            output = run(probe, model, made)
            if output and differences(output, run(probe, model, made)) is None:
                return probe
        except Exception:  # what a model says of input that it was not made for
            continue
    return None


def run(probe: Probe, model: nn.Module, made: Made) -> list[Tensor]:
    """What a model computes, as a list of numbers' tensors; twice the same."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        return list(_tensors(probe(model, made)))


def differences(one: list[Tensor], two: list[Tensor]) -> float | None:
    """By how much outputs differ, relative to the greatest; ``None`` where they are equal."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in two]:
        return float("inf")
    most = 0.0
    for left, right in zip(one, two, strict=True):
        left, right = (torch.nan_to_num(tensor.double()) for tensor in (left, right))
        if left.numel():
            most = max(most, float((left - right).abs().max() / left.abs().max().clamp(min=1)))
    return most if most > CLOSE else None


def settings(model: nn.Module) -> dict[str, Any]:
    """Every number, truth and text that the modules of a model hold, by its path."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            if isinstance(value, (bool, int, float, str)):
                found[f"{path}.{name}".lstrip(".")] = value
    return found


# One item a layer, or of one layer: a restricted model has those of the whole one.
_OF_LAYERS = {"inner_states", "encoder_states", "fc_results", "attn"}


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.dtype != torch.bool:
            yield output
    elif isinstance(output, Mapping):
        for name in sorted(output.keys() - _OF_LAYERS, key=str):
            yield from _tensors(output[name])
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)
