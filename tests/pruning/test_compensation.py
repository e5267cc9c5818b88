# SPDX-License-Identifier: MIT
"""The mathematics of compensation: which gaps there are, and the regression behind each."""

import pytest
import torch
from torch import Tensor

from fairseq_layerdrop.pruning.compensation import Gap, Regression, beginnings, fit, gaps
from fairseq_layerdrop.pruning.plan import PruningPlan

DEPTHS = {"encoder": 6, "decoder": 6}


def plan(text: str) -> PruningPlan:
    return PruningPlan.parse(text, DEPTHS)


def regression(inputs: Tensor, missing: Tensor, parts: int = 1) -> Regression:
    """The sums over some tokens, which come in ``parts`` parts."""
    sums = Regression(inputs.shape[1], missing.shape[1])
    for some, lacking in zip(inputs.chunk(parts), missing.chunk(parts), strict=True):
        sums.add(some, lacking)
    return sums


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    """What enters a map of 7 units, and what 3 outputs lack, on 40 tokens."""
    torch.manual_seed(1)
    return torch.randn(40, 7), torch.randn(40, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all/0,2,4", [("decoder", 0, 1), ("decoder", 2, 3), ("decoder", 4, 5)]),
        ("0,5/all", [("encoder", 0, 4)]),
        ("1,2/0", [("encoder", 2, 5), ("decoder", 0, 5)]),
        ("4,5/2-5", []),
        ("all/all", []),
    ],
)
def test_a_gap_is_behind_a_layer_that_stays(
    text: str, expected: list[tuple[str, int, int]]
) -> None:
    assert gaps(plan(text)) == [Gap(*gap) for gap in expected]


def test_first_layers_that_go_are_no_gap_but_are_named() -> None:
    assert beginnings(plan("1,2/0")) == ["encoder"]
    assert beginnings(plan("all/0,5")) == []


def test_a_gap_reads_well() -> None:
    assert [str(gap) for gap in gaps(plan("0,5/0-4"))] == ["encoder layers 1-4", "decoder layer 5"]


def test_a_linear_map_that_is_missing_is_found() -> None:
    torch.manual_seed(1)
    inputs, weight, bias = torch.randn(50, 5), torch.randn(3, 5), torch.randn(3)
    missing = inputs @ weight.T + bias
    best = fit(regression(inputs, missing), regression(inputs[:9], missing[:9]))
    assert best is not None
    assert best.share == 1e-6
    assert best.error < 1e-9
    torch.testing.assert_close(best.change.weight, weight.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(best.change.bias, bias.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [1e-4, 1.0])
def test_the_ridge_is_least_squares_with_rows_of_the_square_root_of_alpha(
    drawn: tuple[Tensor, Tensor], share: float
) -> None:
    inputs, missing = (part.double() for part in drawn)
    rows = torch.cat([inputs, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    alpha = share * float((rows.T @ rows).diagonal().mean())
    padded = torch.cat([rows, alpha**0.5 * torch.eye(8, dtype=torch.float64)])
    aim = torch.cat([missing, torch.zeros(8, 3, dtype=torch.float64)])
    expected = torch.linalg.lstsq(padded, aim).solution
    ((_, change),) = regression(inputs, missing).solve([share])
    torch.testing.assert_close(change.weight, expected[:-1].T)
    torch.testing.assert_close(change.bias, expected[-1])


def test_sums_do_not_depend_on_the_batches(drawn: tuple[Tensor, Tensor]) -> None:
    one, many = regression(*drawn), regression(*drawn, parts=5)
    torch.testing.assert_close(one.gram, many.gram)
    torch.testing.assert_close(one.moment, many.moment)
    torch.testing.assert_close(one.square, many.square)
    assert one.tokens == many.tokens == 40


def test_the_error_is_that_on_the_tokens(drawn: tuple[Tensor, Tensor]) -> None:
    inputs, missing = (part.double() for part in drawn)
    ((_, change),) = regression(inputs, missing).solve([0.1])
    left = missing - inputs @ change.weight.T - change.bias
    expected = float(left.square().sum() / missing.square().sum())
    assert regression(inputs, missing).error(change) == pytest.approx(expected)


def test_what_does_not_hold_on_held_out_tokens_is_no_fit(drawn: tuple[Tensor, Tensor]) -> None:
    inputs, missing = drawn
    assert fit(regression(inputs, missing), regression(inputs, -missing)) is None


def test_alpha_carries_fewer_tokens_than_units(drawn: tuple[Tensor, Tensor]) -> None:
    inputs, missing = drawn
    few = regression(inputs[:3], missing[:3])
    assert all(change.weight.isfinite().all() for _, change in few.solve())
    assert [share for share, _ in few.solve()]


def test_sums_are_of_64_bits(drawn: tuple[Tensor, Tensor]) -> None:
    inputs, missing = drawn
    halves, floats = (regression(inputs.to(t), missing.to(t)) for t in (torch.half, torch.float))
    assert halves.gram.dtype == torch.float64
    torch.testing.assert_close(halves.gram, floats.gram, rtol=1e-2, atol=1e-2)


def test_an_activation_that_is_no_number_is_seen(drawn: tuple[Tensor, Tensor]) -> None:
    inputs, missing = drawn
    assert regression(inputs, missing).is_finite
    inputs[3, 2] = float("nan")
    assert not regression(inputs, missing).is_finite
