"""Every rate of CCAT against its definition, written as sums over examples and attempts (T-B5)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from attempt_tables import KINDS, Kind, random_table, rows_by_example

from hcnn_fast.evaluation import (
    Proportion,
    ccat_curve,
    ccat_metrics,
    detection,
    distal_detection,
    robust_error,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.table import AttemptTable

THRESHOLDS = (0.0, 1 / 6, 1 / 3, 0.34, 0.5, 2 / 3, 5 / 6, 1.0, math.inf)


def split(table: AttemptTable) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(clean row, attempts) of every example."""
    return [
        (
            next(row for row in rows if row["clean"]),
            [row for row in rows if not row["clean"]],
        )
        for rows in rows_by_example(table, "defended").values()
    ]


def accepts(row: dict[str, Any], tau: float) -> bool:
    return row["answered"] and row["confidence"] >= tau


def errs(row: dict[str, Any], tau: float) -> bool:
    return row["wrong"] and row["confidence"] >= tau


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", THRESHOLDS)
def test_rates_equal_their_definitions(kind: Kind, tau: float) -> None:
    table = random_table(0, examples=80, kind=kind)
    found = ccat_metrics(worst_case_outcomes(table, "defended"), tau)
    data = split(table)
    kept = sum(accepts(x, tau) for x, _ in data)
    assert found.tpr == Proportion(
        sum(x["right"] and accepts(x, tau) for x, _ in data), sum(x["right"] for x, _ in data)
    )
    assert found.error == Proportion(sum(errs(x, tau) for x, _ in data), kept)

    # Equation 7 of the ICLR text, term by term.
    success = [x["right"] and any(errs(a, tau) for a in attempts) for x, attempts in data]
    numerator = sum(errs(x, tau) + s for (x, _), s in zip(data, success, strict=True))
    extra = sum((not accepts(x, tau)) and s for (x, _), s in zip(data, success, strict=True))
    assert found.robust_error_iclr == Proportion(numerator, kept + extra)

    # The code's form: maxima of indicators over the clean image and the attempts.
    numerator = sum(max(errs(row, tau) for row in (x, *attempts)) for x, attempts in data)
    denominator = sum(max(accepts(row, tau) for row in (x, *attempts)) for x, attempts in data)
    assert found.robust_error_icml == Proportion(numerator, denominator)
    assert found.false_positive_rate == Proportion(sum(success), len(data))
    for rate in (found.robust_error_iclr, found.robust_error_icml, found.robust_error_supremum):
        assert 0 <= rate.count <= rate.total
    if math.isinf(tau):
        assert found.robust_error_icml == Proportion(0, 0)


@pytest.mark.parametrize(("seed", "tau"), list(enumerate(THRESHOLDS * 2)))
def test_supremum_is_the_best_choice_of_one_attempt_for_each_example(seed: int, tau: float) -> None:
    table = random_table(seed, examples=5, attempts=3)
    found = ccat_metrics(worst_case_outcomes(table, "defended"), tau)
    best, data = 0.0, split(table)
    for chosen in product(*(attempts for _, attempts in data)):
        pairs = [(x, a) for (x, _), a in zip(data, chosen, strict=True)]
        errors = sum(errs(x, tau) or errs(a, tau) for x, a in pairs)
        accepted = sum(accepts(x, tau) or accepts(a, tau) for x, a in pairs)
        best = max(best, errors / accepted if accepted else 0.0)
    rate = found.robust_error_supremum
    # The attacker may also leave an image alone, which the enumeration of attempts cannot.
    assert (rate.value if rate.total else 0.0) >= best
    idle = [[*attempts, x] for x, attempts in data]
    best = 0.0
    for chosen in product(*idle):
        pairs = [(x, a) for (x, _), a in zip(data, chosen, strict=True)]
        errors = sum(errs(x, tau) or errs(a, tau) for x, a in pairs)
        accepted = sum(accepts(x, tau) or accepts(a, tau) for x, a in pairs)
        best = max(best, errors / accepted if accepted else 0.0)
    assert (rate.value if rate.total else 0.0) == best


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", THRESHOLDS)
def test_robust_errors_equal_their_definitions(kind: Kind, tau: float) -> None:
    table = random_table(0, examples=80, kind=kind)
    found = robust_error(worst_case_outcomes(table, "defended"), tau)
    data, total = split(table), len(split(table))
    rejected = [not accepts(x, tau) for x, _ in data]
    failed = [any(errs(row, tau) for row in (x, *attempts)) for x, attempts in data]
    assert found.clean == Proportion(sum(x["wrong"] for x, _ in data), total)
    assert found.without_rejection == Proportion(
        sum(any(row["wrong"] for row in (x, *attempts)) for x, attempts in data), total
    )
    assert found.with_rejection == Proportion(sum(failed), total)
    assert found.clean_rejected == Proportion(sum(rejected), total)
    either = [f or r for f, r in zip(failed, rejected, strict=True)]
    assert found.with_rejection_of_clean == Proportion(sum(either), total)
    if kind == "all_right":
        assert found.without_rejection.count == 0
    if kind == "all_wrong":
        assert found.without_rejection.count == total


def test_without_rejection_all_forms_are_the_robust_test_error() -> None:
    table = random_table(3, examples=40)
    answered = table.take(table.defended.prediction >= 0)
    complete = answered.take(torch.isin(answered.example, answered.example[answered.is_clean()]))
    outcomes = worst_case_outcomes(complete, "defended")
    metrics, errors = ccat_metrics(outcomes, 0.0), robust_error(outcomes, 0.0)
    assert metrics.robust_error_icml == errors.without_rejection
    assert metrics.robust_error_iclr == errors.without_rejection
    assert metrics.robust_error_supremum == errors.with_rejection
    assert 0 < errors.without_rejection.count < errors.without_rejection.total


def test_curve_visits_every_threshold_at_which_a_rate_changes() -> None:
    outcomes = worst_case_outcomes(random_table(2), "defended")
    curve = ccat_curve(outcomes)
    at = [point.threshold for point in curve]
    assert at == sorted(set(at))
    assert at[0] == 0.0
    for tau in torch.linspace(0, 1, 97).tolist():
        later = next((point for point in curve if point.threshold >= tau), None)
        found = later or ccat_metrics(outcomes, math.inf)
        assert replace(found, threshold=tau) == ccat_metrics(outcomes, tau)


@pytest.mark.parametrize("seed", range(6))
def test_detection_compares_confident_attempts_with_clean_images(seed: int) -> None:
    table = random_table(seed, examples=40)
    found = detection(worst_case_outcomes(table, "defended"))
    data = split(table)
    negatives = [
        max(a["confidence"] for a in attempts if a["wrong"])
        for x, attempts in data
        if x["right"] and any(a["wrong"] for a in attempts)
    ]

    def area(positives: list[float]) -> float:
        pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
        return sum(pairs) / len(pairs)

    every = [x["confidence"] if x["answered"] else -math.inf for x, _ in data]
    areas = found.areas()
    assert areas["against_all"].value == pytest.approx(area(every), abs=1e-12)
    right = [x["confidence"] for x, _ in data if x["right"]]
    assert areas["against_right"].value == pytest.approx(area(right), abs=1e-12)
    assert areas["against_right"].negatives == len(negatives)


def test_detection_without_a_success_is_perfect_by_convention() -> None:
    found = detection(worst_case_outcomes(random_table(0, kind="all_right"), "defended"))
    assert found.areas()["against_all"].value == 1.0
    assert found.areas()["against_all"].interval == (0.0, 1.0)


def test_distal_inputs_are_errors_wherever_they_are_accepted() -> None:
    reference = worst_case_outcomes(random_table(0), "defended")
    table = random_table(1)
    with pytest.raises(ValueError, match="distal has a class for example"):
        distal_detection(reference, worst_case_outcomes(table, "defended"))
    blank = torch.full_like(table.label, -1)
    answers = {
        name: type(held)(**(vars(held) | {"wrong_confidence": held.confidence}))
        for name, held in (("base", table.base), ("defended", table.defended))
    }
    distal = AttemptTable(**(vars(table) | {"label": blank} | answers))
    curve = distal_detection(reference, worst_case_outcomes(distal, "defended"))
    worst = [
        max((row["confidence"] for row in rows if row["answered"]), default=-math.inf)
        for rows in rows_by_example(distal, "defended").values()
    ]
    for place in range(len(curve.threshold)):
        tau = float(curve.threshold[place])
        assert int(curve.false_positives[place]) == sum(score >= tau for score in worst)


@pytest.mark.parametrize("threshold", [-0.1, -math.inf, math.nan])
def test_thresholds_below_every_confidence_are_refused(threshold: float) -> None:
    outcomes = worst_case_outcomes(random_table(0), "base")
    for metric in (ccat_metrics, robust_error):
        with pytest.raises(ValueError, match=r"^threshold is "):
            metric(outcomes, threshold)


def test_examples_that_were_never_attacked_are_not_counted_as_robust() -> None:
    table = random_table(0, kind="all_right")
    example = int(table.example[0])
    spared = table.take((table.example != example) | table.is_clean())
    outcomes = worst_case_outcomes(spared, "base")
    for metric in (ccat_metrics, robust_error):
        with pytest.raises(ValueError, match=f"1 of 12 examples, the first with id {example}"):
            metric(outcomes, 0.5)
    with pytest.raises(ValueError, match="have no attempt"):
        detection(outcomes)
    broken = random_table(0, kind="all_wrong")
    unattacked = worst_case_outcomes(broken.take(broken.is_clean()), "base")
    assert robust_error(unattacked, 0.0).with_rejection == Proportion(12, 12)
