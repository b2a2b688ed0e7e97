"""Risk-coverage curves against counts, and areas against every order of equal scores."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
import torch

from hcnn_fast.evaluation import Proportion, risk_coverage

INFINITY = math.inf


def area_of_order(errors: list[bool]) -> float:
    risks = [sum(errors[:n]) / n for n in range(1, len(errors) + 1)]
    return sum(risks) / len(risks)


@pytest.mark.parametrize("seed", range(12))
def test_curve_counts_what_each_threshold_accepts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 5, (30,), generator=generator) / 4  # [N]
    score[seed % 3 :: 7] = (INFINITY, -INFINITY)[seed % 2]
    error = (
        torch.rand(30, generator=generator) < seed / 11
    )  # [N] none in the first, all in the last
    curve = risk_coverage(score, error)
    assert curve.threshold.tolist() == sorted(set(score.tolist()), reverse=True)
    for index, t in enumerate(curve.threshold.tolist()):
        kept = [bool(e) for s, e in zip(score, error, strict=True) if float(s) >= t]
        assert curve.at(index) == (
            Proportion(len(kept), 30),
            Proportion(sum(kept), len(kept)),
        )


@pytest.mark.parametrize("seed", range(6))
def test_area_is_the_mean_over_all_orders_of_equal_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 3, (6,), generator=generator).double()  # [N]
    error = torch.rand(6, generator=generator) < 0.5  # [N]
    areas = [
        area_of_order([bool(error[n]) for n in order])
        for order in permutations(range(6))
        if all(score[a] >= score[b] for a, b in pairwise(order))
    ]
    curve = risk_coverage(score, error)
    assert curve.area() == pytest.approx(sum(areas) / len(areas), abs=1e-12)
    every = [area_of_order([bool(error[n]) for n in order]) for order in permutations(range(6))]
    assert curve.least_area() == pytest.approx(min(every), abs=1e-12)
    assert curve.excess_area() == pytest.approx(curve.area() - min(every), abs=1e-12)


def test_area_by_hand() -> None:
    score = torch.tensor([0.9, 0.8, 0.7, 0.6])
    error = torch.tensor([False, True, False, True])
    curve = risk_coverage(score, error)
    assert curve.area() == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert curve.least_area() == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)


def test_a_constant_score_has_the_error_rate_as_area() -> None:
    curve = risk_coverage(torch.ones(8), torch.arange(8) < 3)
    assert curve.area() == pytest.approx(3 / 8)
    assert len(curve.threshold) == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_and_all_wrong_leave_no_excess(share: float) -> None:
    curve = risk_coverage(torch.rand(9), torch.full((9,), bool(share)))
    assert curve.area() == share
    assert curve.excess_area() == 0.0


def test_nothing_has_no_area() -> None:
    curve = risk_coverage(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert len(curve.threshold) == 0
    assert math.isnan(curve.area())
    assert math.isnan(curve.excess_area())


def test_bad_columns_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="score is NaN in row 1"):
        risk_coverage(torch.tensor([0.0, math.nan]), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="error has the length 1, expected that of score, 2"):
        risk_coverage(torch.zeros(2), torch.zeros(1, dtype=torch.bool))
    with pytest.raises(TypeError, match="error is of"):
        risk_coverage(torch.zeros(2), torch.zeros(2))
