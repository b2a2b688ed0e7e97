"""AWPR, recall and the threshold rule against their definitions, one point at a time."""

from __future__ import annotations

import pytest
import torch

import hcnn_fast as hf
from hcnn_fast.evaluation import calibrated_threshold, rejection_metrics


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
