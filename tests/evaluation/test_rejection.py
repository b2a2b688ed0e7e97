"""AWPR, recall and the threshold rule against their definitions, one point at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from attempt_tables import random_table, rows_by_example

import hcnn_fast as hf
from hcnn_fast.evaluation import (
    Proportion,
    calibrated_threshold,
    rejection_metrics,
    rejection_metrics_at,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.table import Classifier


def test_rejection_metrics_count_as_defined() -> None:
    generator = torch.Generator().manual_seed(0)
    correct, wrong, accepted, clean = (
        torch.rand(4, 200, generator=generator) < torch.tensor([[0.8], [0.5], [0.7], [0.9]])
    ).unbind()
    metrics = rejection_metrics(
        correct=correct, attacked_wrong=wrong, attacked_accepted=accepted, clean_accepted=clean
    )
    points = [i for i in range(200) if correct[i]]
    assert metrics.recall.total == len(points)
    assert metrics.awpr_original.count == sum(bool(wrong[i]) for i in points)
    assert metrics.awpr_with_rejection.count == sum(bool(wrong[i] and accepted[i]) for i in points)
    assert metrics.recall.count == sum(bool(clean[i]) for i in points)
    assert metrics.awpr_with_rejection.value <= metrics.awpr_original.value
    assert set(metrics.to_dict()) == {"awpr_original", "awpr_with_rejection", "recall"}


def test_rejection_metrics_refuse_tables_of_different_length() -> None:
    table = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected one shape"):
        rejection_metrics(
            correct=table, attacked_wrong=table[:2], attacked_accepted=table, clean_accepted=table
        )


@pytest.mark.parametrize("tpr", [0.5, 0.9, 0.95, 0.98, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 7, 100, 999])
def test_threshold_keeps_the_share_and_the_next_one_does_not(count: int, tpr: float) -> None:
    confidence = torch.rand(2 * count, generator=torch.Generator().manual_seed(count))
    correct = torch.arange(2 * count) % 2 == 0
    threshold = calibrated_threshold(confidence, correct, tpr)
    kept = confidence[correct]
    assert int((kept >= threshold).sum()) >= tpr * count - 1e-6
    higher = kept[kept > threshold]
    if len(higher):
        assert int((kept >= higher.min()).sum()) < tpr * count + 1e-6


def test_threshold_is_that_of_the_defense() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3))
    x = torch.rand(40, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(40) % 3
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.1, steps=2))
    found = defense.predict(x)
    expected = calibrated_threshold(found.confidence, found.label == y, 0.9)
    assert defense.calibrate(x, y, 0.9) == expected


@pytest.mark.parametrize("tpr", [0.0, -1.0, 1.5, float("nan")])
def test_threshold_refuses_an_impossible_share(tpr: float) -> None:
    with pytest.raises(ValueError, match=r"^tpr is "):
        calibrated_threshold(torch.ones(2), torch.ones(2, dtype=torch.bool), tpr)


def test_threshold_needs_a_correct_answer() -> None:
    with pytest.raises(ValueError, match="no correct answer"):
        calibrated_threshold(torch.ones(2), torch.zeros(2, dtype=torch.bool), 0.99)


def test_threshold_of_a_vanishing_share_is_the_largest_confidence() -> None:
    assert calibrated_threshold(torch.tensor([0.5, 0.75]), torch.ones(2).bool(), 1e-12) == 0.75


@pytest.mark.parametrize("classifier", ["base", "defended"])
@pytest.mark.parametrize("seed", range(4))
def test_rates_of_a_table_equal_a_loop_over_attempts(seed: int, classifier: Classifier) -> None:
    table = random_table(seed, examples=40)
    outcomes = worst_case_outcomes(table, classifier)
    base, rows = rows_by_example(table, "base"), rows_by_example(table, classifier)
    points = [
        rows[example]
        for example in rows
        if any(row["clean"] and row["right"] for row in base[example])
    ]
    for p in (0.0, 1 / 3, 0.5, 2 / 3, 1.0):
        found = rejection_metrics_at(outcomes, p)
        attacked = [[r for r in point if not r["clean"] and r["wrong"]] for point in points]
        hits = sum(any(r["confidence"] >= p for r in wrong) for wrong in attacked)
        kept = sum(
            r["clean"] and r["answered"] and r["confidence"] >= p for point in points for r in point
        )
        total = len(points)
        assert found.awpr_original == Proportion(sum(map(bool, attacked)), total)
        assert found.awpr_with_rejection == Proportion(hits, total)
        assert found.recall == Proportion(kept, total)


def test_rates_move_one_way_with_threshold_and_radius() -> None:  # T-A6 and T-A7
    table = random_table(0, examples=80, attempts=5)
    by_radius = []
    for radius in (0.1, 0.2, 0.3, 0.4, 0.5):
        outcomes = worst_case_outcomes(table.select(up_to_radius=radius), "defended")
        rates = [rejection_metrics_at(outcomes, p / 20) for p in range(21)]
        for before, after in pairwise(rates):
            assert after.awpr_with_rejection.count <= before.awpr_with_rejection.count
            assert after.recall.count <= before.recall.count
            assert after.awpr_with_rejection.count <= after.awpr_original.count
        by_radius.append(rates)
    for smaller, larger in pairwise(by_radius):
        for before, after in zip(smaller, larger, strict=True):
            assert after.awpr_with_rejection.count >= before.awpr_with_rejection.count
    assert by_radius[0][8].awpr_with_rejection.count < by_radius[-1][8].awpr_with_rejection.count
