"""From attack and defence to a stored table and its metrics, against closed forms (T-A1)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import hcnn_fast as hf
from hcnn_fast import attacks
from hcnn_fast.evaluation import (
    Answers,
    AttemptTable,
    ccat_metrics,
    concatenate,
    label_ranks,
    read_attempts,
    recovery_table,
    robust_error,
    worst_case_outcomes,
    write_attempts,
)

N, D, RADIUS = 60, 10, 0.05


def test_metrics_of_a_stored_run_equal_the_closed_forms(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(D, generator=generator)  # [D]
    linear = nn.Linear(D, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack((-weight, weight)) / 2)
        linear.bias.copy_(torch.tensor([weight.sum(), -weight.sum()]) / 4)
    # Far enough from the bounds that no ball of attack and search together is cut by them.
    x = 0.2 + 0.6 * torch.rand(N, D, generator=generator)  # [N, D]
    margin = (x - 0.5) @ weight  # [N] logit of class 1
    y = (margin > 0).long()  # [N]
    y[::7] = 1 - y[::7]  # wrong when clean
    defense = hf.Defense(linear, hf.SearchConfig.mcn(RADIUS, steps=5))

    def attempt(points: torch.Tensor, **columns: object) -> AttemptTable:  # points [N, D]
        found = defense.predict(points).search
        return AttemptTable.of_attempt(
            example=torch.arange(N),
            label=y,
            base=Answers.from_logits(linear(points), y),
            defended=Answers.from_logits(found.logits, y),
            label_rank=label_ranks(found.label_confidence, found.label_prediction, y),
            **columns,  # type: ignore[arg-type]  # of_attempt checks them
        )

    parts = [attempt(x)]
    for restart in range(2):
        found = attacks.pgd(linear, x, y, radius=RADIUS, steps=10, seed=restart)
        parts.append(
            attempt(
                found.point,
                attack="pgd",
                radius=RADIUS,
                distance=(found.point - x).abs().amax(1),
                restart=restart,
                seed=restart,
                gradient_steps=10,
            )
        )
    path = tmp_path / "attempts.parquet"
    write_attempts(path, concatenate(parts))
    table = read_attempts(path)

    right = (margin > 0).long() == y  # [N]
    robust = right & (margin.abs() > RADIUS * weight.abs().sum())  # [N]
    assert 0 < int(robust.sum()) < int(right.sum()) < N
    for classifier in ("base", "defended"):  # exact MCN keeps the side of a linear classifier
        outcomes = worst_case_outcomes(table, classifier)
        assert torch.equal(outcomes.right, right)
        assert torch.equal(outcomes.survivors(), robust)
        errors = robust_error(outcomes, 0.0)
        assert errors.clean.count == N - int(right.sum())
        assert errors.without_rejection.count == N - int(robust.sum())
        rates = ccat_metrics(outcomes, 0.0)
        assert rates.robust_error_icml == errors.without_rejection
        assert rates.false_positive_rate.count == int((right & ~robust).sum())
    recovered = recovery_table(table)
    assert recovered.total == 2 * N
    assert recovered.recovered.count == recovered.broken.count == 0
