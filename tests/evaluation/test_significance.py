# SPDX-License-Identifier: MIT
"""Paired tests against tests that are written out, and against values computed by hand."""

import itertools
import math
import random

import pytest

from fairseq_layerdrop.evaluation.significance import (
    holm,
    loss_interval,
    paired_bleu,
    paired_losses,
)

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "hears",
    "runs",
    "small",
    "big",
    "green",
    "house",
    "tree",
    "and",
    "then",
]


def exact(one: list[float], two: list[float]) -> float:
    """The share of all assignments of signs that are at least as far from zero."""
    differences = [a - b for a, b in zip(one, two, strict=True)]
    observed = abs(sum(differences)) - 1e-12
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    far = [
        abs(sum(s * d for s, d in zip(sign, differences, strict=True))) >= observed
        for sign in signs
    ]
    return sum(far) / len(signs)


@pytest.mark.parametrize("seed", range(6))
def test_the_test_of_losses_is_the_exact_permutation_test(seed: int) -> None:
    draw = random.Random(seed)
    one = [draw.gauss(5, 2) for _ in range(10)]
    two = [value + draw.gauss(0.4 * seed, 1) for value in one]
    sizes = [float(draw.randint(3, 9)) for _ in one]
    expected = exact(one, two)
    found = paired_losses(one, two, sizes, samples=40_000)
    assert found == pytest.approx(
        expected, abs=4 * math.sqrt(expected * (1 - expected) / 40_000) + 1e-4
    )
    assert paired_losses(two, one, sizes, samples=40_000) == pytest.approx(found)
    assert 0 < expected <= 1


def test_the_observed_draw_is_counted_in() -> None:
    one = [float(i) for i in range(60)]
    two = [value + 1 for value in one]
    assert paired_losses(one, two, [1.0] * 60) == pytest.approx(1 / 1001)
    assert paired_losses(one, one, [1.0] * 60) == 1.0


def test_a_difference_of_chance_is_no_difference() -> None:
    """Under the null hypothesis p is below 5 % about as often as it says."""
    draw = random.Random(4)
    rejected = 0
    for number in range(300):
        one, two = ([draw.gauss(3, 1) for _ in range(30)] for _ in "ab")
        rejected += paired_losses(one, two, [1.0] * 30, samples=300, seed=number) <= 0.05
    assert 4 <= rejected <= 28


def test_the_test_of_losses_is_the_same_each_time() -> None:
    one, two, sizes = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.5, 1.0, 3.7, 4.9, 5.3, 6.2], [1.0] * 6
    assert paired_losses(one, two, sizes) == paired_losses(one, two, sizes)
    assert paired_losses(one, two, sizes, seed=2) != paired_losses(one, two, sizes, seed=3)


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ({"a": 0.01, "b": 0.04, "c": 0.03}, {"a": 0.03, "b": 0.06, "c": 0.06}),
        (
            {"a": 0.01, "b": 0.02, "c": 0.022, "d": 0.09},
            {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.09},
        ),
        ({"a": 0.6, "b": 0.7}, {"a": 1.0, "b": 1.0}),
        ({"a": 0.02, "b": 0.02}, {"a": 0.04, "b": 0.04}),
        ({"a": 0.03}, {"a": 0.03}),
        ({}, {}),
    ],
)
def test_the_correction_of_holm(given: dict[str, float], corrected: dict[str, float]) -> None:
    assert holm(given) == pytest.approx(corrected)
    assert set(holm(given)) == set(given)


@pytest.fixture(scope="module")
def references() -> list[str]:
    draw = random.Random(2)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 12))) for _ in range(80)]


def spoilt(texts: list[str], share: float, seed: int = 3) -> list[str]:
    """The texts with some words exchanged."""
    draw = random.Random(seed)
    return [
        " ".join("no" if draw.random() < share else word for word in text.split()) for text in texts
    ]


def test_a_clearly_worse_system_and_one_that_errs_as_often(references: list[str]) -> None:
    systems = {
        "worse": spoilt(references, 0.5),
        "whole": spoilt(references, 0.1),
        "other": spoilt(references, 0.1, 5),
    }
    p_values = paired_bleu(systems, "whole", references)
    assert list(p_values) == ["worse", "other"]
    assert p_values["worse"] < 0.01
    assert p_values["other"] > 0.1


@pytest.mark.parametrize("changed", [0, 1])
def test_texts_that_differ_nowhere_or_in_one_sentence_are_no_difference(
    references: list[str], changed: int
) -> None:
    """With one sentence exchanged or not, every draw is as far from zero as what was observed."""
    base = spoilt(references, 0.1)
    other = ["no no no"] * changed + base[changed:]
    assert paired_bleu({"whole": base, "other": other}, "whole", references)["other"] > 0.99


def test_the_baseline_alone_is_compared_with_nothing(references: list[str]) -> None:
    assert paired_bleu({"whole": references}, "whole", references) == {}


def test_sacrebleu_says_the_same(references: list[str]) -> None:
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    one, two = spoilt(references, 0.1), spoilt(references, 0.1, 5)
    test = PairedTest(
        [("x", one), ("y", two)], {"BLEU": BLEU(references=[references])}, None, "ar", n_samples=200
    )
    expected = test()[1]["BLEU"][1].p_value
    assert paired_bleu({"y": two, "x": one}, "x", references, samples=200) == pytest.approx(
        {"y": expected}, abs=0.1
    )
    assert 0.1 < expected < 0.9


def test_the_interval_holds_the_loss_and_shrinks_with_the_data() -> None:
    draw = random.Random(1)
    sizes = [float(draw.randint(3, 9)) for _ in range(400)]
    sums = [size * draw.gauss(2, 0.5) for size in sizes]
    loss = sum(sums) / sum(sizes) / math.log(2)
    low, high = loss_interval(sums, sizes)
    assert low < loss < high
    few = loss_interval(sums[:25], sizes[:25])
    assert (few[1] - few[0]) / (high - low) == pytest.approx(4, rel=0.5)  # the square root of 16
    spread = math.sqrt(
        sum((a - loss * math.log(2) * n) ** 2 for a, n in zip(sums, sizes, strict=True))
    )
    assert high - low == pytest.approx(2 * 1.96 * spread / sum(sizes) / math.log(2), rel=0.15)
