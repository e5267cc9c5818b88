# SPDX-License-Identifier: MIT
"""From a number of parameters to depths: always the largest that fits."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from builders import WHERE, family_state, model_state, share
from torch import Tensor

from fairseq_layerdrop.pruning.budget import fit_parameters, parse_amount
from fairseq_layerdrop.pruning.inspection import describe
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source
from fairseq_layerdrop.pruning.stacks import prune_state, stack_depths
from fairseq_layerdrop.pruning.upgrade import tie

State = dict[str, Tensor]
Depths = dict[str, int]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("30M", 30_000_000),
        ("1.2B", 1_200_000_000),
        (".5M", 500_000),
        ("800k", 800_000),
        ("0.0015M", 1500),
        ("30_000_000", 30_000_000),
        ("1,000,000", 1_000_000),
        ("1,000k", 1_000_000),
        ("12345", 12345),
        (" 30 M ", 30_000_000),
    ],
)
def test_a_number_of_parameters(text: str, number: int) -> None:
    assert parse_amount(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "M",
        "many",
        "30m",
        "30G",
        "30MB",
        "-5M",
        "+5M",
        "1e6",
        "1.2.3",
        "0x10",
        "30M40",
        "5%",
        ".",
        "1 000 000",
        "9" * 400,
    ],
)
def test_what_is_no_number_of_parameters_is_refused_by_rule_and_value(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_amount(text)
    assert (
        str(error.value)
        == f"a number of parameters is like 30M, 1.2B, 800k or 30000000, got {text!r}"
    )


def test_a_decimal_comma_is_not_read_as_a_thousand() -> None:
    with pytest.raises(ValueError, match="'1,5M'"):
        parse_amount("1,5M")


def count(state: State) -> int:
    """Parameters: no buffers, shared ones once; counted without the code that is tested."""
    tensors = {
        t.data_ptr(): t.numel()
        for key, t in state.items()
        if "version" not in key and "float_tensor" not in key
    }
    return sum(tensors.values())


def evenly(depth: int, n: int) -> list[int]:
    return [i * depth // n for i in range(n)]


def spread(depth: int, n: int) -> list[int]:
    return (
        [int(Fraction(i * (depth - 1), n - 1) + Fraction(1, 2)) for i in range(n)] if n > 1 else [0]
    )


RULES = {
    "even": evenly,
    "spread": spread,
    "first": lambda depth, n: list(range(n)),
    "last": lambda depth, n: list(range(depth - n, depth)),
}


def path_of(depths: Depths) -> Iterator[Depths]:
    """The documented path: the stack with the greater share left loses a layer."""
    left = dict(depths)
    yield dict(left)
    while max(left.values()) > 1:
        shares = {
            stack: Fraction(left[stack], depth)
            for stack, depth in depths.items()
            if left[stack] > 1
        }
        largest = [stack for stack, part in shares.items() if part == max(shares.values())]
        left["decoder" if "decoder" in largest else largest[0]] -= 1
        yield dict(left)


def candidates(state: State, rule: str) -> list[tuple[int, dict[str, tuple[int, ...]]]]:
    """All that the path leads to, the whole model first: the parameters, and the layers kept."""
    depths, found = stack_depths(state), []
    for chosen in path_of(depths):
        kept = {stack: tuple(RULES[rule](depths[stack], n)) for stack, n in chosen.items()}
        specs = {stack: ",".join(map(str, layers)) for stack, layers in kept.items()}
        found.append((count(prune_state(state, PruningPlan.from_specs(specs, depths))), kept))
    return found


def spec(rule: str) -> Callable[[str, int], str]:
    """A strategy as what makes a SPEC of a depth."""
    return lambda _, count: f"{rule}:{count}"


def fit(state: State, target: int, rule: str = "even", **specs: str) -> dict[str, tuple[int, ...]]:
    return fit_parameters(state, stack_depths(state), specs, target=target, rule=spec(rule)).kept


MODELS = {
    "6+6": model_state(6, 6),
    "12+3": model_state(12, 3),
    "2+5": model_state(2, 5),
    "1+4": model_state(1, 4),
    "6+6 untied": model_state(6, 6, tied=False),
    "languages": family_state("multilingual_transformer", 4, 3),
    "decoder": model_state(0, 8),
    "encoder": family_state("roberta", 7),
}


@pytest.mark.parametrize("rule", ["even", "first", "last"])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_largest_within_the_target_on_the_documented_path(model: str, rule: str) -> None:
    state = MODELS[model]
    found = candidates(state, rule)
    assert [size for size, _ in found] == sorted({size for size, _ in found}, reverse=True)
    for i, (size, kept) in enumerate(found):
        assert fit(state, size, rule) == kept, "exactly the target is within it"
        assert fit(state, size + 1, rule) == kept
        if i:
            assert fit(state, found[i - 1][0] - 1, rule) == kept, (
                "one less than the next larger has"
            )


@pytest.mark.parametrize("model", MODELS)
def test_spread_is_the_largest_within_the_target_too(model: str) -> None:
    """Its smallest depth is two, the first layer and the last."""
    state = MODELS[model]
    for size, kept in candidates(state, "spread"):
        if all(len(kept[stack]) > 1 or depth == 1 for stack, depth in stack_depths(state).items()):
            assert fit(state, size, "spread") == kept


@pytest.mark.parametrize("model", MODELS)
def test_spread_fits_the_smallest_that_it_can_make_however_unequal_the_stacks_are(
    model: str,
) -> None:
    state = MODELS[model]
    depths = stack_depths(state)
    smallest = {stack: tuple(sorted({0, depth - 1})) for stack, depth in depths.items()}
    plan = PruningPlan.from_specs(smallest, depths)
    assert fit(state, count(prune_state(state, plan)), "spread") == smallest


@pytest.mark.parametrize("model", MODELS)
def test_a_target_that_even_the_smallest_exceeds_is_told_the_smallest(model: str) -> None:
    state = MODELS[model]
    smallest = candidates(state, "even")[-1][0]
    with pytest.raises(ValueError) as error:
        fit(state, smallest - 1)
    assert str(error.value) == (
        f"the smallest that these layers can be made has {smallest:,} parameters, got a target "
        f"of {smallest - 1:,}"
    )


def test_the_smallest_of_spread_is_told_too() -> None:
    state = model_state(6, 6)
    smallest = count(prune_state(state, PruningPlan.parse("0,5/0,5", stack_depths(state))))
    with pytest.raises(ValueError, match=rf"smallest .* has {smallest:,} parameters"):
        fit(state, 10, "spread")


def test_a_target_above_the_whole_model_keeps_it_whole() -> None:
    assert fit(MODELS["6+6"], 10**12) == {
        "encoder": (0, 1, 2, 3, 4, 5),
        "decoder": (0, 1, 2, 3, 4, 5),
    }


def test_the_stacks_shrink_in_proportion() -> None:
    state = model_state(12, 4)
    depths = [
        tuple(len(layers) for layers in kept.values()) for _, kept in candidates(state, "even")
    ]
    chosen = [
        tuple(len(kept) for kept in fit(state, size).values())
        for size, _ in candidates(state, "even")
    ]
    assert chosen == depths
    assert chosen[:9] == [
        (12, 4),
        (12, 3),
        (11, 3),
        (10, 3),
        (9, 3),
        (9, 2),
        (8, 2),
        (7, 2),
        (6, 2),
    ]


@pytest.mark.parametrize("rule", RULES)
def test_a_stack_that_is_named_stays_as_it_is_named(rule: str) -> None:
    state = model_state(6, 6)
    depths = stack_depths(state)
    for n in (2, 3, 6):
        kept = {"encoder": (1, 4), "decoder": tuple(RULES[rule](6, n))}
        target = count(prune_state(state, PruningPlan.from_specs(kept, depths)))
        assert fit(state, target, rule, encoder="1,4") == kept


def test_where_both_stacks_are_named_the_target_only_has_to_hold() -> None:
    state = model_state(6, 6)
    size = count(prune_state(state, PruningPlan.parse("0/1,2", stack_depths(state))))
    assert fit(state, size, encoder="0", decoder="1,2") == {"encoder": (0,), "decoder": (1, 2)}
    with pytest.raises(ValueError, match=rf"has {size:,} parameters, got a target of {size - 1:,}"):
        fit(state, size - 1, encoder="0", decoder="1,2")


def test_a_stack_that_is_named_but_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder: the model has no such stack"):
        fit(model_state(0, 8), 10**9, encoder="0")


@pytest.mark.parametrize("family", WHERE)
def test_the_parameters_are_counted_as_inspect_does(family: str) -> None:
    state = tie(family_state(family))
    half = (count(state) + candidates(state, "even")[-1][0]) // 2
    depths = stack_depths(state)
    small = prune_state(state, fit_parameters(state, depths, {}, target=half, rule=spec("even")))
    told = describe(Source.of({"model": small, "cfg": {"model": {"_name": family}}}))["parameters"][
        "total"
    ]
    assert told == count(small) <= half


@pytest.mark.parametrize("rule", ["even", "first", "last"])
def test_a_weight_that_several_layers_share_counts_as_long_as_one_of_them_stays(rule: str) -> None:
    state = share(model_state(6, 6), "decoder.layers", [range(6)], "fc1.weight")
    for target in range(count(state), candidates(state, rule)[-1][0], -50):
        plan = fit_parameters(state, stack_depths(state), {}, target=target, rule=spec(rule))
        assert count(prune_state(state, plan)) <= target


def test_layers_that_share_their_weights_count_once() -> None:
    state = share(model_state(6, 6), "decoder.layers", [(0, 1), (2, 3), (4, 5)])
    first_four = count(prune_state(state, PruningPlan.parse("all/0-3", stack_depths(state))))
    assert fit(state, first_four, "first", encoder="all")["decoder"] == (0, 1, 2, 3)


def test_the_model_is_not_touched() -> None:
    state = model_state(3, 3)
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in state.items()}
    fit(state, count(state) - 1)
    assert list(state) == list(before)
    assert all(
        t.data_ptr() == before[k][0] and torch.equal(t, before[k][1]) for k, t in state.items()
    )


def test_the_tensors_are_looked_at_once_however_many_depths_are_tried() -> None:
    class Counted(dict[str, Tensor]):
        looks = 0

        def items(self) -> Any:
            self.looks += 1
            return super().items()

    state = Counted(model_state(6, 6))
    fit_parameters(state, stack_depths(state), {}, target=2000, rule=spec("even"))
    assert state.looks == 1
