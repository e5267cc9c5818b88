# SPDX-License-Identifier: MIT
"""Paired significance tests on the same sentences, corrected for the number of tests."""

import math
from collections.abc import Mapping, Sequence

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor

SAMPLES = 1000


def paired_bleu(
    systems: Mapping[str, Sequence[str]],
    baseline: str,
    references: Sequence[str],
    *,
    samples: int = SAMPLES,
    seed: int = 1,
) -> dict[str, float]:
    """The p-value of each system's BLEU against the baseline, by paired approximate randomisation.

    As sacreBLEU's ``--paired-ar`` (Riezler and Maxwell 2005), but a draw exactly as far from zero
    as the observed difference counts. sacreBLEU counts only draws beyond it, so that two equal
    systems get the lowest p.
    """
    statistics = {name: _bleu_statistics(texts, references) for name, texts in systems.items()}
    first = (
        torch.rand(samples, len(references), generator=torch.Generator().manual_seed(seed)) < 0.5
    )
    return {
        name: _randomised(statistics[baseline], statistics[name], first.double())
        for name in systems
        if name != baseline
    }


def _randomised(base: Tensor, other: Tensor, first: Tensor) -> float:
    """The p-value; each draw assigns each sentence's statistics to one of the two systems."""
    one = first @ base + (1 - first) @ other
    two = (1 - first) @ base + first @ other
    drawn = [abs(_bleu(a) - _bleu(b)) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
    observed = abs(_bleu(base.sum(0).tolist()) - _bleu(other.sum(0).tolist()))
    return (sum(difference >= observed - 1e-9 for difference in drawn) + 1) / (len(drawn) + 1)


def _bleu_statistics(texts: Sequence[str], references: Sequence[str]) -> Tensor:
    """Each sentence's matching n-grams, all n-grams, and the two lengths: sentences x 10."""
    metric = BLEU()
    scores = [
        metric.corpus_score([text], [[reference]])
        for text, reference in zip(texts, references, strict=True)
    ]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return torch.tensor(rows, dtype=torch.float64)


def _bleu(statistics: Sequence[float]) -> float:
    counts = list(map(int, statistics))
    matches, totals, (hypotheses, references) = counts[:4], counts[4:8], counts[8:]
    found = BLEU.compute_bleu(matches, totals, hypotheses, references, smooth_method="exp")
    return float(found.score)


def paired_losses(
    one: Sequence[float],
    two: Sequence[float],
    sizes: Sequence[float],
    *,
    samples: int = SAMPLES,
    seed: int = 1,
) -> float:
    """The p-value of the difference of two mean losses, by approximate randomisation.

    Under the null hypothesis either system could have made either sum of a unit (Riezler and
    Maxwell 2005): signs of the differences are drawn at random, and p is the share of draws,
    including the observed one, that are at least as far from zero.

    Args:
        one: the first system's sum of losses on each unit.
        two: the second's.
        sizes: of the units; the mean is over all tokens.
    """
    difference = torch.tensor(one, dtype=torch.float64) - torch.tensor(two, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (samples, len(difference)), generator=generator).double() * 2 - 1
    drawn = (signs @ difference).abs() / sum(sizes)
    observed = difference.sum().abs() / sum(sizes)
    return (int((drawn >= observed * (1 - 1e-12)).sum()) + 1) / (samples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for a family of tests (Holm 1979): reject those at or below the level."""
    corrected = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return corrected


def loss_interval(
    sums: Sequence[float], sizes: Sequence[float], *, samples: int = SAMPLES, seed: int = 1
) -> tuple[float, float]:
    """The 95 % interval of the loss (bits a token), by bootstrap over the units (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(sums), (samples, len(sums)), generator=generator)
    totals = torch.tensor(sums, dtype=torch.float64)[chosen].sum(1)
    counts = torch.tensor(sizes, dtype=torch.float64)[chosen].sum(1)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(totals / counts / math.log(2), ends)
    return float(low), float(high)
