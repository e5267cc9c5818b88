# SPDX-License-Identifier: MIT
"""Each measure of layer importance against a few lines, and the warning that uses one."""

import logging
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import plant, poison, subject

from fairseq_layerdrop.evaluation import layer_importance as layers_module
from fairseq_layerdrop.evaluation.layer_importance import MEASURES, SUBSETS, layer_importance
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import Losses, score_losses
from fairseq_layerdrop.evaluation.preflight import warn_beyond_training
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.pruning.plan import PruningPlan

WHOLE = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def batches(translation: Subject) -> Batches:
    """Batches with padding on both sides."""
    return Batches(translation.loaded, "test", max_sentences=33)


def validated(
    translation: Subject, batches: Batches, encoder: Any = WHOLE, decoder: Any = WHOLE
) -> Losses:
    return score_losses(
        translation.loaded,
        batches.samples,
        [{"encoder": tuple(encoder), "decoder": tuple(decoder)}],
    )[0]


@pytest.mark.parametrize("measure", MEASURES)
def test_a_row_for_each_layer_says_what_was_measured(
    translation: Subject, batches: Batches, measure: str
) -> None:
    rows = layer_importance(translation, batches, measure)
    assert [(row["stack"], row["layer"]) for row in rows] == [
        (s, i) for s in ("encoder", "decoder") for i in range(6)
    ]
    assert {(row["kind"], row["curve"], row["measure"]) for row in rows} == {
        ("importance", "tiny", measure)
    }
    for stack in ("encoder", "decoder"):
        own = [row for row in rows if row["stack"] == stack]
        largest = max(abs(row["value"]) for row in own)
        assert [row["normalised"] for row in own] == pytest.approx(
            [row["value"] / largest for row in own]
        )
    assert all(row["error"] > 0 for row in rows)
    again = layer_importance(translation, batches, measure)
    assert again == rows


def test_leave_one_out_is_the_difference_of_two_validations(
    translation: Subject, batches: Batches
) -> None:
    rows = layer_importance(translation, batches, "leave-one-out")
    whole = validated(translation, batches)
    for row in rows[1::4]:
        rest = [i for i in WHOLE if i != row["layer"]]
        without = validated(translation, batches, **{row["stack"]: rest})
        assert row["value"] == pytest.approx(without.loss - whole.loss, abs=1e-6)
        rises = (without.sums - whole.sums).tolist()
        expected = statistics.stdev(rises) * math.sqrt(len(rises)) / whole.tokens / math.log(2)
        assert row["error"] == pytest.approx(expected, rel=1e-3)


def test_random_subsets_are_twenty_halves_without_the_layer(
    translation: Subject, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plans are recorded on their way to be scored; the value follows from the scores."""
    scored: list[tuple[Any, Losses]] = []
    drawn: list[tuple[str, tuple[int, ...]]] = []
    real_with = layers_module._with

    def note(_: Subject, stack: str, kept: Any) -> PruningPlan:
        drawn.append((stack, tuple(sorted(kept))))
        return real_with(translation, stack, kept)

    def score(loaded: Any, samples: Any, plans: Any, **options: Any) -> list[Losses]:
        found = score_losses(loaded, samples, plans, **options)
        scored.extend(zip(plans, found, strict=True))
        return found

    monkeypatch.setattr(layers_module, "_with", note)
    monkeypatch.setattr(layers_module, "score_losses", score)
    rows = layer_importance(translation, batches, "random-subsets")
    losses = {tuple(plan.items()): found.loss for plan, found in scored}
    whole = losses[("encoder", WHOLE), ("decoder", WHOLE)]
    assert len(drawn) == 12 * SUBSETS
    for number, row in enumerate(rows):
        own = drawn[number * SUBSETS : (number + 1) * SUBSETS]
        assert {stack for stack, _ in own} == {row["stack"]}
        assert all(len(set(kept)) == 3 and row["layer"] not in kept for _, kept in own)
        assert len(set(own)) > 3, "they are drawn at random"
        full = {"encoder": WHOLE, "decoder": WHOLE}
        rises = [losses[tuple({**full, stack: kept}.items())] - whole for stack, kept in own]
        assert row["value"] == pytest.approx(statistics.fmean(rises))
        assert row["error"] == pytest.approx(statistics.stdev(rises) / math.sqrt(SUBSETS))


def test_another_seed_draws_other_subsets(translation: Subject, batches: Batches) -> None:
    one, two = (
        layer_importance(translation, batches, "random-subsets", seed=seed) for seed in (1, 2)
    )
    assert [row["value"] for row in one] != [row["value"] for row in two]
    assert one[0]["signature"] != two[0]["signature"]


def test_the_angle_is_that_of_the_vectors_of_words(translation: Subject, batches: Batches) -> None:
    """Sentence by sentence, where nothing is padded."""
    rows = layer_importance(translation, batches, "angular")
    model = translation.loaded.model
    angles: dict[tuple[str, int], list[float]] = {}

    def note(place: tuple[str, int], x: torch.Tensor, y: Any) -> None:
        y = y[0] if isinstance(y, tuple) else y
        for before, after in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
            cosine = float(before @ after / before.norm() / after.norm())
            angles.setdefault(place, []).append(math.acos(max(-1, min(1, cosine))) / math.pi)

    hooks = [
        layer.register_forward_hook(lambda _, x, y, at=(stack, i): note(at, x[0], y))
        for stack in ("encoder", "decoder")
        for i, layer in enumerate(getattr(model, stack).layers)
    ]
    with torch.no_grad():
        for sample in Batches(translation.loaded, "test", max_sentences=1):
            model(**sample["net_input"])
    for hook in hooks:
        hook.remove()
    for row in rows:
        own = angles[row["stack"], row["layer"]]
        assert row["value"] == pytest.approx(statistics.fmean(own), abs=2e-4)
        assert row["error"] == pytest.approx(statistics.stdev(own) / math.sqrt(len(own)), rel=1e-2)


def test_a_layer_that_does_nothing_matters_nothing(official: Path, tmp_path: Path) -> None:
    useful = {"encoder": {0, 3, 5}, "decoder": {0, 2, 4}}
    planted = subject(
        plant(official / "checkpoint.pt", tmp_path / "planted.pt", useful), official / "data-bin"
    )
    some = Batches(planted.loaded, "test", max_sentences=50)
    for measure in ("leave-one-out", "angular"):
        for row in layer_importance(planted, some, measure):
            if row["layer"] in useful[row["stack"]]:
                assert row["value"] > 0.02
            else:
                assert row["value"] == pytest.approx(0, abs=2e-3)


def test_a_stack_of_one_layer_has_no_loss_without_it(official: Path, tmp_path: Path) -> None:
    from fairseq_programs import prune

    small = prune(
        official / "checkpoint.pt",
        tmp_path / "small.pt",
        "--encoder-keep",
        "0,2",
        "--decoder-keep",
        "1",
    )
    tiny = subject(small, official / "data-bin")
    some = Batches(tiny.loaded, "test", max_sentences=50)
    for measure in MEASURES:
        found = [(row["stack"], row["layer"]) for row in layer_importance(tiny, some, measure)]
        assert found == [("encoder", 0), ("encoder", 1)] + [("decoder", 0)] * (measure == "angular")


# The warning before a cut that hurts


def warned(caplog: pytest.LogCaptureFixture, tiny: Subject, batches: Batches, *plans: str) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_beyond_training(
            tiny, batches, [PruningPlan.parse(text, tiny.depths) for text in plans]
        )
    return "\n".join(record.getMessage() for record in caplog.records)


def with_rates(translation: Subject, **rates: Any) -> Subject:
    return Subject(translation.loaded, digest="x", curve="tiny", rates=rates)


def test_a_model_without_layerdrop_is_warned_about_with_numbers(
    translation: Subject, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    for rate in (0.0, None, [0.0] * 6):
        text = warned(caplog, with_rates(translation, encoder=rate, decoder=0.2), batches, "5+6")
        assert text.startswith(
            "the encoder was trained without LayerDrop, so pruning will hurt. Without any single"
        )
        assert "the decoder was" not in text
    few = batches.share(0.1)
    costs = []
    for stack in ("encoder", "decoder"):
        for i in WHOLE:
            plans = [
                translation.whole.kept,
                {**translation.whole.kept, stack: tuple(j for j in WHOLE if j != i)},
            ]
            whole, without = score_losses(translation.loaded, few, plans)
            costs.append(without.loss - whole.loss)
    said = [
        f"by {min(costs):.2f} to {max(costs):.2f} bits",
        f"median {statistics.median(costs):.2f}",
    ]
    assert all(part in text for part in said)
    assert f"on {sum(len(sample['id']) for sample in few)} sentences" in text


def test_a_cut_far_beyond_the_rate_is_warned_about(
    translation: Subject, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    text = warned(
        caplog, with_rates(translation, encoder=0.2, decoder=[0.1, 0.3] * 3), batches, "6+6", "2+1"
    )
    assert "the encoder was trained with LayerDrop 0.2, and 67% of it would go" in text
    assert "the decoder was trained with LayerDrop 0.2, and 83% of it would go" in text
    assert text.count("\n") == 0


def test_what_the_training_promises_is_not_warned_about(
    translation: Subject, batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        warned(
            caplog, with_rates(translation, encoder=0.2, decoder=0.2), batches, "6+6", "3+3", "6+4"
        )
        == ""
    )
    assert (
        warned(caplog, with_rates(translation, encoder=0.0, decoder=0.2), batches, "6+3", "6+6")
        == ""
    )
    assert warned(caplog, with_rates(translation), batches, "6+6") == ""


def test_no_warning_costs_no_work(
    translation: Subject, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr("fairseq_layerdrop.evaluation.preflight.leave_one_out", fail)
    warn_beyond_training(
        with_rates(translation, encoder=0.2, decoder=0.2),
        batches,
        [PruningPlan.parse("3+3", translation.depths)],
    )


def test_a_layer_that_is_broken_is_named(official: Path) -> None:
    tiny = subject(official / "checkpoint.pt", official / "data-bin")
    poison(tiny.loaded, "encoder", 2)
    with pytest.raises(ValueError, match="the loss must be a number, got nan"):
        layer_importance(tiny, Batches(tiny.loaded, "test"), "leave-one-out")
