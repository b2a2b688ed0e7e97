"""Clopper-Pearson against SciPy's beta quantiles, and against the definition."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from hcnn_fast.evaluation import Proportion, clopper_pearson

CASES = [
    (successes, trials)
    for trials in (1, 2, 7, 30, 128, 1000, 10_000)
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials})
    if successes <= trials
]


@pytest.mark.parametrize(("successes", "trials"), CASES)
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_interval_equals_the_beta_quantiles(successes: int, trials: int, level: float) -> None:
    tail = (1 - level) / 2
    low, high = clopper_pearson(successes, trials, level)
    expected_low, expected_high = 0.0, 1.0
    if successes > 0:
        expected_low = stats.beta.ppf(tail, successes, trials - successes + 1)
    if successes < trials:
        expected_high = stats.beta.isf(tail, successes + 1, trials - successes)
    assert low == pytest.approx(expected_low, rel=1e-9, abs=1e-15)
    assert high == pytest.approx(expected_high, rel=1e-9, abs=1e-15)


def test_interval_of_the_papers_counts() -> None:
    assert clopper_pearson(26, 300) == pytest.approx((0.0574, 0.1244), abs=5e-5)
    assert clopper_pearson(277, 300) == pytest.approx((0.8872, 0.9508), abs=5e-5)


def test_interval_of_none_or_all_has_closed_form() -> None:
    low, high = clopper_pearson(0, 20)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12)
    low, high = clopper_pearson(20, 20)
    assert low == pytest.approx(0.025 ** (1 / 20), rel=1e-12)
    assert high == 1.0


def test_interval_covers_at_least_its_level_for_every_probability() -> None:
    trials = 25
    intervals = [clopper_pearson(k, trials, 0.9) for k in range(trials + 1)]
    for step in range(1, 200):
        p = step / 200
        covered = sum(
            stats.binom.pmf(k, trials, p)
            for k, (low, high) in enumerate(intervals)
            if low <= p <= high
        )
        assert covered >= 0.9 - 1e-12


def test_interval_of_no_trials_is_everything() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1, -1), "trials"), ((-1, 3), "successes"), ((4, 3), "successes"), ((1, 2, 1.0), "level")],
)
def test_interval_refuses_impossible_counts(arguments: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} is "):
        clopper_pearson(*arguments)


def test_proportion_keeps_its_denominator() -> None:
    rate = Proportion(3, 4)
    low, high = clopper_pearson(3, 4)
    assert rate.value == 0.75
    assert rate.to_dict() == {
        "count": 3,
        "total": 4,
        "value": 0.75,
        "level": 0.95,
        "low": low,
        "high": high,
    }


def test_proportion_of_nothing_has_no_value() -> None:
    assert math.isnan(Proportion(0, 0).value)
    assert Proportion(0, 0).to_dict()["value"] is None


def test_proportion_prints_its_denominator_and_interval() -> None:
    assert str(Proportion(3, 4)) == "3/4 75.0% [19.4-99.4%]"
    assert str(Proportion(26, 300)) == "26/300 8.7% [5.7-12.4%]"
    assert str(Proportion(0, 0)) == "0/0"
