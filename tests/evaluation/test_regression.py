"""Lines and means against scipy, known lines, and the coverage of their intervals."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from hcnn_fast.evaluation.regression import mean, median, regression


def test_line_and_correlation_are_those_of_scipy() -> None:
    generator = numpy.random.default_rng(0)
    for count in (3, 10, 40):
        x, noise = generator.normal(size=(2, count))
        y = 0.7 * x - 2.0 + 0.3 * noise
        ours, theirs = regression(x, y), stats.linregress(x, y)
        assert math.isclose(ours.slope.value, theirs.slope, rel_tol=1e-12)
        assert math.isclose(ours.intercept, theirs.intercept, rel_tol=1e-12)
        assert math.isclose(ours.correlation.value, theirs.rvalue, rel_tol=1e-12)
        assert ours.slope.low <= ours.slope.value <= ours.slope.high


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = numpy.random.default_rng(1)
    slopes = means = 0
    for seed in range(30):
        x = generator.normal(size=40)
        y = 0.5 * x + generator.normal(size=40)
        slope = regression(x, y, level=0.9, seed=seed).slope
        slopes += slope.low <= 0.5 <= slope.high
        average = mean(y - 0.5 * x, level=0.9, seed=seed)
        means += average.low <= 0.0 <= average.high
    assert 22 <= slopes <= 30  # 27 expected
    assert 22 <= means <= 30


def test_a_line_without_noise_is_found_without_doubt() -> None:
    found = regression([0.0, 1.0, 2.0, 5.0], [1.0, 3.0, 5.0, 11.0])
    for estimate, truth in ((found.slope, 2.0), (found.correlation, 1.0)):
        assert math.isclose(estimate.low, truth, rel_tol=1e-9)
        assert math.isclose(estimate.high, truth, rel_tol=1e-9)


def test_what_has_no_slope_has_none() -> None:
    still = regression([1.0, 1.0, 1.0], [0.1, 0.2, 0.3])
    assert math.isnan(still.slope.value)
    assert math.isnan(still.correlation.value)
    assert still.correlation.to_dict()["value"] is None
    flat = regression([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert flat.slope.value == 0.0
    assert math.isnan(flat.correlation.value)


def test_mean_and_median_of_few_numbers() -> None:
    assert (mean([1.0, 2.0, 6.0]).value, median([1.0, 2.0, 6.0]).value) == (3.0, 2.0)
    assert math.isnan(mean([1.0]).low)
    assert mean([]).count == 0
    assert mean([2.0, 2.0]).to_dict() == {"value": 2.0, "low": 2.0, "high": 2.0, "count": 2}
    assert str(mean([0.5, 0.5])) == "0.5 [0.5, 0.5]"


def test_too_few_or_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 2 numbers"):
        regression([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="3 and 4 numbers"):
        regression([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
