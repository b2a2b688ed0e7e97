"""Worst cases per example against a loop over attempts, and the sup property (T-B6)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from attempt_tables import KINDS, Kind, random_table, rows_by_example

from hcnn_fast.evaluation import (
    Answers,
    AttemptTable,
    ccat_metrics,
    concatenate,
    selected_attempt_outcomes,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.table import Classifier

THRESHOLDS = (0.0, 1 / 6, 1 / 3, 0.34, 0.5, 2 / 3, 5 / 6, 1.0, math.inf)
NOTHING = -math.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classifier", ["base", "defended"])
@pytest.mark.parametrize("seed", range(5))
def test_outcomes_equal_a_loop_over_attempts(seed: int, classifier: Classifier, kind: Kind) -> None:
    table = random_table(seed, kind=kind)
    found = worst_case_outcomes(table, classifier)
    rows = rows_by_example(table, classifier)
    base = rows_by_example(table, "base")
    assert found.example.tolist() == sorted(rows)
    for n, example in enumerate(found.example.tolist()):
        (clean,) = (row for row in rows[example] if row["clean"])
        attempts = [row for row in rows[example] if not row["clean"]]
        answered = [row["confidence"] for row in attempts if row["answered"]]
        wrong = [row["confidence"] for row in attempts if row["wrong"]]
        assert bool(found.right[n]) == clean["right"]
        assert bool(found.base_right[n]) == next(r["right"] for r in base[example] if r["clean"])
        assert float(found.clean_score[n]) == (
            clean["confidence"] if clean["answered"] else NOTHING
        )
        assert bool(found.attacked[n])
        assert float(found.wrong_score[n]) == max(wrong, default=NOTHING)
        assert float(found.attacked_score[n]) == max(answered, default=NOTHING)


@pytest.mark.parametrize("seed", range(5))
def test_selected_attempt_is_the_first_of_largest_wrong_probability(seed: int) -> None:
    table = random_table(seed)
    found = selected_attempt_outcomes(table, "base")
    rows = rows_by_example(table, "base")
    for n, example in enumerate(found.example.tolist()):
        attempts = [row for row in rows[example] if not row["clean"]]
        chosen = max(attempts, key=lambda row: row["wrong_confidence"])  # the first of equals
        assert float(found.wrong_score[n]) == (chosen["confidence"] if chosen["wrong"] else NOTHING)
        assert float(found.attacked_score[n]) == (
            chosen["confidence"] if chosen["answered"] else NOTHING
        )


def one_example(label: int, *probabilities: list[float]) -> AttemptTable:
    """One example whose clean image and attempts get the given probabilities."""
    y = torch.tensor([label])
    parts = []
    for attempt, row in enumerate(probabilities):
        answers = Answers.from_logits(torch.tensor([row], dtype=torch.float64).log(), y)
        parts.append(
            AttemptTable.of_attempt(
                example=torch.tensor([0]),
                label=y,
                attack="pgd" if attempt else "clean",
                radius=0.1 if attempt else 0.0,
                distance=torch.zeros(1),
                restart=max(attempt - 1, 0),
                base=answers,
                defended=answers,
            )
        )
    return concatenate(parts)


def test_selecting_one_attempt_hides_the_hit_that_the_worst_case_counts() -> None:
    # The worked case of spec B.6: below 1/2 the larger wrong probability need not be an error.
    table = one_example(0, [0.9, 0.1, 0.0, 0.0], [0.5, 0.45, 0.05, 0.0], [0.1, 0.4, 0.3, 0.2])
    selected = ccat_metrics(selected_attempt_outcomes(table, "base"), 0.35)
    worst = ccat_metrics(worst_case_outcomes(table, "base"), 0.35)
    assert selected.false_positive_rate.count == 0
    assert selected.robust_error_icml.count == 0
    assert worst.false_positive_rate.count == 1
    assert worst.robust_error_iclr.value == worst.robust_error_icml.value == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_more_attempts_never_lower_the_errors_that_are_suprema(seed: int) -> None:
    table = random_table(seed, attempts=4)
    names = [f"attack {attempt}" for attempt in range(1, 5)]
    growing = [
        worst_case_outcomes(table.select(attacks=names[:count]), "defended")
        for count in range(1, 5)
    ]
    for threshold in THRESHOLDS:
        found = [ccat_metrics(outcomes, threshold) for outcomes in growing]
        for before, after in pairwise(found):
            assert after.false_positive_rate.count >= before.false_positive_rate.count
            assert after.robust_error_icml.count >= before.robust_error_icml.count
            for name in ("robust_error_iclr", "robust_error_supremum"):
                new, old = getattr(after, name), getattr(before, name)
                assert new.count * old.total >= old.count * new.total


def test_the_icml_form_falls_when_a_right_answer_is_accepted_under_attack() -> None:
    wrong = one_example(1, [0.9, 0.1], [0.9, 0.1])
    unsure = one_example(0, [0.55, 0.45], [0.55, 0.45], [0.8, 0.2])
    shifted = AttemptTable(**(vars(unsure) | {"example": unsure.example + 1}))
    both = concatenate([wrong, shifted])
    all_attempts = ccat_metrics(worst_case_outcomes(both, "base"), 0.7)
    fewer = both.take(both.restart == 0)
    assert ccat_metrics(worst_case_outcomes(fewer, "base"), 0.7).robust_error_icml.value == 1.0
    assert all_attempts.robust_error_icml.value == 0.5
    assert all_attempts.robust_error_supremum.value == 1.0


def test_an_example_needs_one_clean_row() -> None:
    table = random_table(0)
    example = int(table.example[0])
    headless = table.take((table.example != example) | ~table.is_clean())
    with pytest.raises(ValueError, match=f"example {example} has 0 clean rows, expected 1"):
        worst_case_outcomes(headless, "base")
    with pytest.raises(ValueError, match="classifier is 'both'"):
        worst_case_outcomes(table, "both")  # type: ignore[arg-type]  # what the test is about


def test_taking_examples_keeps_their_columns_together() -> None:
    found = worst_case_outcomes(random_table(1), "base")
    part = found.take(found.right)
    assert len(part) == int(found.right.sum())
    assert part.right.all()
    assert torch.equal(part.wrong_score, found.wrong_score[found.right])
