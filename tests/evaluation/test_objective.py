# SPDX-License-Identifier: MIT
"""A search's objective on real sentences: scored, kept, found again, shared by processes."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fairseq_programs import prune
from planted import count_calls, rows

from fairseq_layerdrop.checkpoint import load
from fairseq_layerdrop.evaluation.evolution import POPULATION, evolve
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.objective import GROUP, LossObjective, _groups
from fairseq_layerdrop.evaluation.search import SearchOptions
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.workers import Workers
from fairseq_layerdrop.pruning.inspection import describe
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.search import Screened, beam, exhaustive, space
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.reporting.rows import RowFile

DEPTHS = {"encoder": 6, "decoder": 6}


@pytest.fixture(scope="module")
def batches(translation: Subject) -> Batches:
    return Batches(translation.loaded, "test", half="first", max_sentences=10)


@pytest.fixture(scope="module")
def plans() -> list[PruningPlan]:
    """Three encoders with eleven decoders each, in no order, and some of them twice."""
    encoders, decoders = (
        [(0, 2, 4), (1,), (0, 1, 2, 3, 4, 5)],
        list(itertools.combinations(range(6), 4))[:11],
    )
    every = [
        PruningPlan.from_specs({"encoder": e, "decoder": d}, DEPTHS)
        for e in encoders
        for d in decoders
    ]
    random.Random(2).shuffle(every)
    return every + every[:3]


def test_the_scores_are_the_losses_of_the_plans(
    translation: Subject, batches: Batches, plans: list[PruningPlan]
) -> None:
    scores = LossObjective(translation, batches, rows=None, workers=Workers())(plans)
    for plan, score in list(zip(plans, scores, strict=True))[::9]:
        (alone,) = score_losses(translation.loaded, batches.samples, [plan.kept])
        assert score == pytest.approx(alone.loss, rel=1e-6)
    assert scores[:3] == scores[-3:]


def test_every_score_is_a_row_and_none_is_computed_twice(
    translation: Subject, batches: Batches, plans: list[PruningPlan], tmp_path: Path
) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    scores = LossObjective(translation, batches, rows=file, workers=Workers())(plans)
    file.close()
    written = rows(tmp_path / "rows.jsonl")
    assert len(written) == len(set(plans)) == 33
    by_plan = {row["plan"]: row for row in written}
    for plan, score in zip(plans, scores, strict=True):
        row = by_plan[str(plan)]
        assert (row["kind"], row["loss"], row["curve"]) == ("trial", score, "tiny")
        assert (row["encoder_layers"], row["decoder_layers"]) == tuple(
            len(kept) for kept in plan.kept.values()
        )
        assert row["tokens"] == sum(sample["ntokens"] for sample in batches)
        assert row["signature"]["plan"] == str(plan)
    calls = count_calls(translation.loaded.model)
    again = LossObjective(
        translation, batches, rows=RowFile(tmp_path / "rows.jsonl"), workers=Workers()
    )
    assert again(plans) == scores
    assert calls == []
    assert again([PruningPlan.parse("1+1", DEPTHS)]) != []
    assert len(calls) == 2 * len(batches)
    assert len(rows(tmp_path / "rows.jsonl")) == 34


def test_scores_on_other_data_are_other_rows(
    translation: Subject, batches: Batches, tmp_path: Path
) -> None:
    file, plan = RowFile(tmp_path / "rows.jsonl"), translation.whole
    other = Batches(translation.loaded, "test", half="second", max_sentences=10)
    scores = [
        LossObjective(translation, some, rows=file, workers=Workers(), part=part)([plan])[0]
        for some, part in ((batches, 1.0), (other, 1.0), (batches, 0.4), (batches, 1.0))
    ]
    assert len(set(scores)) == 3
    assert scores[3] == scores[0]
    assert len(rows(tmp_path / "rows.jsonl")) == 3


def test_plans_of_an_encoder_are_scored_in_one_pass(
    translation: Subject, batches: Batches, plans: list[PruningPlan]
) -> None:
    calls = count_calls(translation.loaded.model)
    LossObjective(translation, batches, rows=None, workers=Workers())(plans)
    encoders = {plan.encoder.kept for plan in plans if plan.encoder}
    nodes = {kept[: i + 1] for kept in encoders for i in range(len(kept))}
    assert sum(stack == "encoder" for stack, _ in calls) == len(nodes) * len(batches)


@pytest.mark.parametrize("depths", [{"encoder": 4, "decoder": 4}, {"decoder": 8}], ids=str)
def test_groups_hold_every_plan_once_and_whole_encoders(depths: dict[str, int]) -> None:
    plans = list(space(depths, {}))
    groups = _groups(random.Random(1).sample(plans, len(plans)))
    assert sorted(map(str, itertools.chain(*groups))) == sorted(map(str, plans))
    assert max(map(len, groups)) <= GROUP
    if "encoder" in depths:
        encoders = [{plan.kept["encoder"] for plan in group} for group in groups]
        assert sum(map(len, encoders)) == 15, "no encoder is computed in two groups"


def test_what_parameters_and_bytes_are(
    translation: Subject, official: Path, tmp_path: Path
) -> None:
    for number, text in enumerate(("6+6", "3+2", "0,5/1")):
        plan = PruningPlan.parse(text, DEPTHS)
        flags = [
            f for s, kept in plan.kept.items() for f in (f"--{s}-keep", ",".join(map(str, kept)))
        ]
        small = prune(official / "checkpoint.pt", tmp_path / f"{number}.pt", *flags)
        facts = describe(Source.of(load(small)))
        assert translation.parameters(plan) == facts["parameters"]["total"]
        assert translation.bytes(plan) == 4 * translation.parameters(plan)


# Evolution


def flat(plans: Sequence[PruningPlan]) -> list[float]:
    """Encoder layers 1 and 4 and decoder layer 0 are useful; any other does a little harm."""
    useful = {"encoder": {1, 4}, "decoder": {0}}
    return [
        sum(
            len(useful[s] - set(kept)) + 0.01 * len(set(kept) - useful[s])
            for s, kept in plan.kept.items()
        )
        for plan in plans
    ]


def layers(plan: PruningPlan) -> int:
    return sum(map(len, plan.kept.values()))


def test_evolution_finds_a_front_and_the_same_each_time() -> None:
    depths = {"encoder": 6, "decoder": 3}
    front = evolve(flat, layers, depths, {}, generations=12)
    assert str(front[-1].plan) == "1,4/0"
    costs, scores = [layers(trial.plan) for trial in front], [trial.score for trial in front]
    assert costs == sorted(set(costs))
    assert scores == sorted(set(scores), reverse=True)
    assert evolve(flat, layers, depths, {}, generations=12) == front


def test_evolution_keeps_to_depths_and_budget() -> None:
    seen: list[PruningPlan] = []

    def noted(plans: Sequence[PruningPlan]) -> list[float]:
        seen.extend(plans)
        return flat(plans)

    front = evolve(
        noted, layers, DEPTHS, {"encoder": 2}, lambda plan: layers(plan) <= 4, generations=5
    )
    assert {len(plan.kept["encoder"]) for plan in seen} == {2}
    assert len(seen) == 5 * POPULATION
    assert all(layers(trial.plan) <= 4 for trial in front)
    best = min((p for p in seen if layers(p) <= 4), key=lambda p: flat([p])[0])
    assert front[-1].score == flat([best])[0]


def test_evolution_within_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="no sub-network that was tried fits the budget"):
        evolve(flat, layers, DEPTHS, {}, lambda _: False, generations=1)


@pytest.mark.slow
def test_an_evolution_goes_on_in_its_storage(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    evolve(flat, layers, {"encoder": 3, "decoder": 2}, {}, generations=1, storage=storage)
    import optuna

    evolve(flat, layers, {"encoder": 3, "decoder": 2}, {}, generations=1, storage=storage)
    assert len(optuna.load_study(study_name="plans", storage=storage).trials) == 2 * POPULATION


@pytest.mark.parametrize("storage", ["trials.db", "sqlite:////nowhere/trials.db", "none://x"])
def test_a_storage_that_cannot_be_is_told_by_rule_and_value(storage: str) -> None:
    with pytest.raises(ValueError, match=f"storage= is the URL .* like .*, got {storage}: "):
        evolve(flat, layers, {"encoder": 3, "decoder": 2}, {}, generations=1, storage=storage)


def test_a_screened_evolution_s_front_holds_scores() -> None:
    front = evolve(Screened(flat, flat), layers, DEPTHS, {}, generations=3)
    assert all(math.isfinite(trial.score) for trial in front)
    json.dumps([trial.score for trial in front], allow_nan=False)


# What is wanted


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"encoder_depth": 7}, "encoder_depth= must lie in 1-6, got 7"),
        ({"decoder_depth": 0}, "decoder_depth= must lie in 1-6, got 0"),
        ({"decoder_depth": -1}, "decoder_depth= must lie in 1-6, got -1"),
        ({"screen": 2.0}, "screen= is a share of the data between 0 and 1, got 2.0"),
        ({"screen": math.nan}, "screen= is a share of the data between 0 and 1, got nan"),
        ({"beam_width": 0}, "beam_width= must be at least 1, got 0"),
        ({"generations": 0}, "generations= must be at least 1, got 0"),
        ({"beam_width": 0, "screen": 0.0}, "got 0.0; beam_width="),
    ],
)
def test_what_the_model_cannot_give_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**request_).check(DEPTHS)


def test_a_stack_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"encoder_depth=: the model has no such stack \(it has decoder\)"
    ):
        SearchOptions(encoder_depth=2).check({"decoder": 6})


def test_a_small_space_is_searched_whole_and_a_large_one_greedily() -> None:
    assert SearchOptions().method_for(DEPTHS) == "exhaustive"
    assert SearchOptions().method_for({"decoder": 16}) == "greedy"
    assert SearchOptions(decoder_depth=8).method_for({"decoder": 16}) == "exhaustive"
    assert SearchOptions(method="beam").method_for(DEPTHS) == "beam"


# On real data, methods agree


def test_a_wide_beam_and_screening_find_what_exhaustive_search_finds(
    translation: Subject, batches: Batches
) -> None:
    score = LossObjective(translation, batches, rows=None, workers=Workers())
    memory: dict[PruningPlan, float] = {}

    def remembered(plans: Sequence[PruningPlan]) -> list[float]:
        new = [plan for plan in plans if plan not in memory]
        memory.update(zip(new, score(new), strict=True))
        return [memory[plan] for plan in plans]

    counts = {"encoder": 6, "decoder": 2}
    (best,) = exhaustive(remembered, DEPTHS, counts)
    assert beam(remembered, DEPTHS, counts, width=10**4)[-1].plan == best.plan
    rough = LossObjective(translation, batches, rows=None, workers=Workers(), part=0.4)
    (screened,) = exhaustive(Screened(rough, remembered, share=0.5), DEPTHS, counts)
    assert screened.plan == best.plan
