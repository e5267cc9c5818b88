# SPDX-License-Identifier: MIT
"""Selections and plans: the notation, what it refuses, and the arithmetic."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from texts import check_any_text, rubbish

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan

BOTH = {"encoder": 6, "decoder": 6}

FORMS = [
    ("0,2,4", (0, 2, 4)),
    (" 0, 2 ,4 ", (0, 2, 4)),
    ("4,0,2", (0, 2, 4)),
    ("0-3,5", (0, 1, 2, 3, 5)),
    ("2-2", (2,)),
    ("3", (3,)),
    ("[0, 2, 4]", (0, 2, 4)),
    ("(0, 2)", (0, 2)),
    ("every:2", (0, 2, 4)),
    ("even:4", (0, 1, 3, 4)),
    ("spread:3", (0, 3, 5)),
    ("first:3", (0, 1, 2)),
    ("last:3", (3, 4, 5)),
    ("all", (0, 1, 2, 3, 4, 5)),
    ([0, 2, 4], (0, 2, 4)),
    (["0-3", "5"], (0, 1, 2, 3, 5)),
    ((4, 0), (0, 4)),
    (3, (3,)),
    (OmegaConf.create([0, 2, 4]), (0, 2, 4)),
    (OmegaConf.create({"keep": "0,2"}).keep, (0, 2)),
]

REFUSED = [  # the SPEC, what the message must hold
    ("0,2,2", ("got 2", "0-5")),
    ([1, 1], ("got 1", "0-5")),
    ("0-3,2", ("got 2", "0-5")),
    ("-1", ("-1", "0-5")),
    ([0, -2], ("-2", "0-5")),
    (-3, ("-3", "0-5")),
    ("0,6", ("got 6", "0-5")),
    ("3-9", ("9", "0-5")),
    (12, ("12", "0-5")),
    ("", ("0-5",)),
    ([], ("0-5",)),
    ((), ("0-5",)),
    ("4-2", ("4-2", "ascend")),
    ("0,,2", ("0,,2",)),
    ("a,b", ("a,b", "0,2,4")),
    ("1.5", ("1.5",)),
    ([0.5], ("0.5",)),
    ("0 2 4", ("0 2 4",)),
    ("1-", ("1-",)),
    (True, ("True",)),
    ("even", ("even",)),
    ("even:", ("even:",)),
    ("even:7", ("even", "6", "7")),
    ("first:0", ("first", "6", "0")),
    ("last:-1", ("last", "6", "-1")),
    ("random:3", ("random", "every", "even", "spread", "first", "last")),
]


@st.composite
def selections(draw: st.DrawFn) -> LayerSelection:
    depth = draw(st.integers(1, 24))
    return LayerSelection(depth, tuple(draw(st.sets(st.integers(0, depth - 1), min_size=1))))


@pytest.mark.parametrize(
    ("spec", "kept"), FORMS, ids=lambda value: f"{type(value).__name__} {value}"
)
def test_every_form_of_a_spec(spec: Any, kept: tuple[int, ...]) -> None:
    assert LayerSelection.parse(spec, depth=6).kept == kept


@pytest.mark.parametrize(("spec", "parts"), REFUSED, ids=lambda value: str(value))
def test_a_spec_is_refused_with_the_reason(spec: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        LayerSelection.parse(spec, depth=6)
    assert [part for part in parts if part not in str(error.value)] == []


@given(rubbish())
@settings(max_examples=500)
def test_any_text_is_a_selection_or_one_line(text: str) -> None:
    check_any_text(text)


def test_a_number_of_thousands_of_digits_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        LayerSelection.parse("9" * 5000, 6)


def test_a_range_far_outside_is_refused_without_being_built() -> None:
    with pytest.raises(ValueError, match="0-5"):
        LayerSelection.parse("0-99999999999999", 6)


@given(selections())
def test_a_selection_reads_back_what_it_prints(selection: LayerSelection) -> None:
    assert LayerSelection.parse(str(selection), selection.depth) == selection


@given(selections())
def test_kept_and_removed_are_the_stack(selection: LayerSelection) -> None:
    assert sorted(selection.kept + selection.removed) == list(range(selection.depth))
    assert selection.is_whole == (selection.removed == ())


def test_a_stack_that_is_not_named_stays_whole() -> None:
    for specs in ({"decoder": "0,2"}, {"encoder": None, "decoder": "0,2"}):
        plan = PruningPlan.from_specs(specs, BOTH)
        assert plan.encoder == LayerSelection(6, tuple(range(6)))
        assert plan.decoder == LayerSelection(6, (0, 2))


def test_nothing_named_is_the_whole_model() -> None:
    assert PruningPlan.from_specs({}, BOTH).is_whole


def test_the_errors_of_all_stacks_come_in_one_message() -> None:
    with pytest.raises(ValueError, match=r"encoder: .*9.*decoder: .*-1"):
        PruningPlan.from_specs({"encoder": "0,9", "decoder": [-1]}, BOTH)


def test_a_stack_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder.*decoder"):
        PruningPlan.from_specs({"encoder": "0"}, {"decoder": 8})


@pytest.mark.parametrize(
    ("text", "encoder", "decoder"),
    [
        ("all/all", "0 1 2 3 4 5", "0 1 2 3 4 5"),
        ("even:3/0,2,5", "0 2 4", "0 2 5"),
        ("all/every:2", "0 1 2 3 4 5", "0 2 4"),
        ("3/0", "3", "0"),  # a single number is an index
        ("6+3", "0 1 2 3 4 5", "0 2 4"),
        (" 2+1 ", "0 3", "0"),
        ("0-2 / last:2", "0 1 2", "4 5"),
    ],
)
def test_the_text_of_a_plan(text: str, encoder: str, decoder: str) -> None:
    plan = PruningPlan.parse(text, BOTH)
    kept = {
        stack: " ".join(map(str, selection.kept)) for stack, selection in plan.selections.items()
    }
    assert kept == {"encoder": encoder, "decoder": decoder}


def test_a_model_of_one_stack_has_plans_of_one_spec() -> None:
    plan = PruningPlan.parse("even:4", {"decoder": 8})
    assert plan == PruningPlan(decoder=LayerSelection(8, (0, 2, 4, 6)))
    assert str(plan) == "0,2,4,6"


@pytest.mark.parametrize(
    ("text", "depths"),
    [
        ("all", BOTH),
        ("0/1/2", BOTH),
        ("", BOTH),
        ("7+3", BOTH),
        ("6+0", BOTH),
        ("6+", BOTH),
        ("6+3", {"decoder": 8}),
        ("all/all", {"decoder": 8}),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(text: str, depths: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        PruningPlan.parse(text, depths)


@given(selections(), st.data())
def test_to_compose_is_to_prune_twice(outer: LayerSelection, data: st.DataObject) -> None:
    left = len(outer.kept)
    inner = LayerSelection(left, tuple(data.draw(st.sets(st.integers(0, left - 1), min_size=1))))
    once = [i for i in range(outer.depth) if i in outer.kept]
    twice = [layer for position, layer in enumerate(once) if position in inner.kept]
    assert outer.compose(inner) == LayerSelection(outer.depth, tuple(twice))


def test_plans_compose_stack_by_stack() -> None:
    first = PruningPlan.parse("0,2,4/1-4", BOTH)
    second = PruningPlan.parse("0,2/last:1", {"encoder": 3, "decoder": 4})
    assert first.compose(second) == PruningPlan.parse("0,4/4", BOTH)


def test_plans_of_different_models_do_not_compose() -> None:
    plan = PruningPlan.parse("0,2,4/0,2,4", BOTH)
    with pytest.raises(ValueError, match="of 3 layers"):
        plan.compose(PruningPlan.parse("0/0", BOTH))
    with pytest.raises(ValueError, match="stacks"):
        plan.compose(PruningPlan.parse("0", {"decoder": 3}))


@given(selections() | st.none(), selections())
def test_a_plan_survives_json_and_its_own_text(
    encoder: LayerSelection | None, decoder: LayerSelection
) -> None:
    plan = PruningPlan(encoder, decoder)
    depths = {stack: selection.depth for stack, selection in plan.selections.items()}
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert PruningPlan.parse(str(plan), depths) == plan


def test_a_plan_can_be_a_key() -> None:
    assert len({PruningPlan.parse("0,2/all", BOTH), PruningPlan.parse("2,0/0-5", BOTH)}) == 1
