"""The half-radius lemma: counted as defined, and true of exact MCN on a linear classifier."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from attempt_tables import random_table, rows_by_example

from hcnn_fast.evaluation import (
    Answers,
    AttemptTable,
    Proportion,
    concatenate,
    half_radius_bound,
    half_radius_bound_from_rates,
)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("p", [1 / 3, 0.5, 2 / 3])
def test_good_points_equal_a_loop_over_attempts(seed: int, p: float) -> None:
    table = random_table(seed, examples=40)
    for radius in (0.05, 0.1, 0.15):
        good = 0
        for rows in rows_by_example(table, "base").values():
            (clean,) = (row for row in rows if row["clean"])
            within = [row for row in rows if row["radius"] <= 2 * radius]
            bad = any(row["wrong_confidence"] >= p for row in within)
            good += clean["right"] and clean["confidence"] >= p and not bad
        found = half_radius_bound(table, "base", confidence=p, radius=radius)
        assert found.good == Proportion(good, 40)
        assert not found.is_guarantee
    assert half_radius_bound(table, "base", confidence=p, radius=0.1, decided="exact").to_dict()[
        "is_guarantee"
    ]


def test_exact_mcn_is_right_at_half_the_radius_around_every_good_point() -> None:
    # Two classes, logits (0, w.x + b): the extremes over a ball without a box have a closed form,
    # and exact MCN keeps the side of the point it is given (T-A1).
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, generator=generator, dtype=torch.float64)  # [D]
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)  # [N, D]
    y = (torch.rand(300, generator=generator) < torch.sigmoid(x @ weight)).long()  # [N]
    radius, reach = 0.1, 0.1 * weight.abs().sum()
    towards_wrong = torch.where(y == 1, -1.0, 1.0)  # [N]

    def answers(logit: torch.Tensor) -> Answers:  # [N]
        return Answers.from_logits(torch.stack((torch.zeros_like(logit), logit), 1), y)

    clean, worst = answers(x @ weight), answers(x @ weight + 2 * reach * towards_wrong)
    ids = torch.arange(300)
    table = concatenate(
        [
            AttemptTable.of_attempt(example=ids, label=y, base=clean, defended=clean),
            AttemptTable.of_attempt(
                example=ids,
                label=y,
                attack="exact",
                radius=2 * radius,
                distance=torch.full((300,), 2 * radius),
                base=worst,
                defended=worst,
            ),
        ]
    )
    robust = answers(x @ weight + reach * towards_wrong).right(y)  # [N] of MCN at the worst x'
    for p in (0.5, 0.6, 0.75, 0.9):
        bound = half_radius_bound(table, "base", confidence=p, radius=radius, decided="exact")
        assert 0 < bound.good.count <= int(robust.sum())


def test_the_bounds_from_the_papers_rates() -> None:
    # Table 2 at delta = .020 and .030: recall less AWPR with rejection (spec A.9, 2).
    cases = [("90.0", "14.7", "75.3"), ("85.7", "9", "76.7"), ("75.4", "3.8", "71.6")]
    cases += [("90.0", "29.7", "60.3"), ("86.0", "26.8", "59.2"), ("76.5", "16.0", "60.5")]
    for recall, awpr, expected in cases:
        found = half_radius_bound_from_rates(Fraction(recall), Fraction(awpr))
        assert found == Fraction(expected)
    assert half_radius_bound_from_rates(Fraction(1, 10), Fraction(1, 2)) == 0
