"""ROC curves against counts, and areas against all pairs."""

from __future__ import annotations

import math

import pytest
import torch

from hcnn_fast.evaluation import Proportion, roc_curve

INFINITY = math.inf
CASES = {
    "hand": ([0.9, 0.8, 0.4], [0.8, 0.3]),
    "ties": ([0.5, 0.5, 0.5], [0.5, 0.5]),
    "apart": ([0.9, 0.8], [0.1]),
    "reversed": ([0.1], [0.9, 0.8]),
    "infinite": ([INFINITY, 0.5, -INFINITY], [INFINITY, 0.2, -INFINITY, -INFINITY]),
    "no negatives": ([0.5, 0.2], []),
    "no positives": ([], [0.5]),
    "nothing": ([], []),
}


def scores(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_scores(seed: int) -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(seed)
    positives = torch.randint(0, 9, (17,), generator=generator) / 8
    negatives = torch.randint(-2, 7, (23,), generator=generator) / 8
    return positives.tolist(), negatives.tolist()


EVERY = [*CASES.values(), *(random_scores(seed) for seed in range(10))]


@pytest.mark.parametrize(("positives", "negatives"), EVERY)
def test_curve_counts_what_each_threshold_keeps(
    positives: list[float], negatives: list[float]
) -> None:
    curve = roc_curve(scores(positives), scores(negatives))
    assert set(curve.threshold[1:].tolist()) == {*positives, *negatives}
    for t, kept, passed in zip(
        curve.threshold.tolist(),
        curve.true_positives.tolist(),
        curve.false_positives.tolist(),
        strict=True,
    ):
        assert kept == sum(score >= t for score in positives)
        assert passed == sum(score >= t for score in negatives)
    assert int(curve.true_positives[0]) == int(curve.false_positives[0]) == 0
    assert int(curve.true_positives[-1]) == len(positives)
    assert int(curve.false_positives[-1]) == len(negatives)


@pytest.mark.parametrize(("positives", "negatives"), EVERY)
def test_area_is_the_share_of_pairs_in_order(
    positives: list[float], negatives: list[float]
) -> None:
    area = roc_curve(scores(positives), scores(negatives)).area()
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    if not positives:
        assert math.isnan(area.value)
        assert area.to_dict()["value"] is None
    elif not negatives:
        assert area.value == 1.0
    else:
        assert area.value == sum(pairs) / len(pairs)
    assert (area.positives, area.negatives) == (len(positives), len(negatives))


@pytest.mark.parametrize("tpr", [0.01, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_rate_at_a_share_is_that_of_the_strictest_threshold(seed: int, tpr: float) -> None:
    positives, negatives = random_scores(seed)
    candidates = [t for t in positives if sum(p >= t for p in positives) >= tpr * len(positives)]
    expected = sum(n >= max(candidates) for n in negatives)
    found = roc_curve(scores(positives), scores(negatives)).false_positive_rate_at(tpr)
    assert found == Proportion(expected, len(negatives))


def test_rate_at_a_share_refuses_what_it_cannot_keep() -> None:
    with pytest.raises(ValueError, match=r"^tpr is 0.0"):
        roc_curve(scores([0.5]), scores([0.5])).false_positive_rate_at(0.0)
    with pytest.raises(ValueError, match=r"^positives is 0"):
        roc_curve(scores([]), scores([0.5])).false_positive_rate_at(0.5)
    with pytest.raises(ValueError, match="negatives is NaN"):
        roc_curve(scores([0.5]), scores([math.nan]))


def test_area_interval_covers_the_truth_and_prints_its_counts() -> None:
    # Positives uniform on [0.2, 1.2], negatives on [0, 1]: the area is 1 - 0.8 ** 2 / 2 = 0.68.
    covered = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        low, high = (torch.rand(60, generator=generator).double() for _ in range(2))
        area = roc_curve(high + 0.2, low).area()
        covered += area.interval[0] <= 0.68 <= area.interval[1]
    assert covered >= 190
    half = math.sqrt(math.log(40) / 120)
    assert area.interval[1] - area.interval[0] == pytest.approx(
        min(2 * half, 1 - area.value + half)
    )
    assert str(area).endswith("(60 positives, 60 negatives)")
