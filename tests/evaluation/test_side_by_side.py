"""The papers' numbers as printed, and rows that put ours beside them without mixing the two."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from attempt_tables import random_table

from hcnn_fast.evaluation import (
    HalfRadiusBound,
    Proportion,
    Separation,
    calibrated_threshold,
    ccat_metrics,
    detection,
    recovery_table,
    rejection_metrics_at,
    robust_error,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.published import (
    CCAT_ATTACK_STRENGTH,
    CCAT_DISTAL,
    CCAT_ERRORS,
    LABEL_SMOOTHING,
    RECOVERY,
    REJECTION,
    SEPARATION,
    Published,
)
from hcnn_fast.evaluation.side_by_side import (
    ComparisonRow,
    DisentanglingErrors,
    ccat_attack_rows,
    ccat_distal_rows,
    ccat_rows,
    comparison_rows,
    disentangling_rows,
    recovery_rows,
    rejection_rows,
    robustness_rows,
    separation_rows,
)

DIFFERS = "synthetic table"
OUTCOMES = worst_case_outcomes(random_table(0), "base")


def find(rows: tuple[ComparisonRow, ...], quantity: str, **setting: Any) -> ComparisonRow:
    (row,) = (
        row for row in rows if row.quantity == quantity and setting.items() <= row.setting.items()
    )
    return row


def test_published_rates_keep_their_relations() -> None:
    for metrics in REJECTION.values():
        rejecting, original = metrics["awpr_with_rejection"], metrics["awpr_original"]
        assert 0 <= rejecting.value <= original.value <= 1
        assert metrics["recall"].total == 1000
    models = {(model, radius) for model, radius, _ in REJECTION}
    for model, radius in models:  # T-A6: both fall with p
        rows = [REJECTION[model, radius, f"p = {p:g}"] for p in (0.9, 0.95, 0.99)]
        for name in ("awpr_with_rejection", "recall"):
            values = [row[name].value for row in rows]
            assert values == sorted(values, reverse=True)
    assert [table.total for table in RECOVERY.values()] == [9000, 9000]
    assert len(REJECTION) == 15
    assert len(CCAT_ERRORS) == 18
    assert len(CCAT_ATTACK_STRENGTH) == 21
    assert len(CCAT_DISTAL) == 18


def test_published_numbers_are_those_quoted_in_the_text() -> None:
    robust = SEPARATION["adversarially trained", 0.03, 0.9]
    assert robust["hits"].value == Fraction(26, 300)
    assert robust["chebyshev_upper"].value == robust["hits"].value + Fraction(1, 10)
    natural = SEPARATION["natural", 0.03, 0.9]
    assert natural["chebyshev_lower"].value == natural["hits"].value - Fraction(1, 10)
    assert REJECTION["natural", 0.01, "p = 0.99"]["awpr_with_rejection"].printed == "98.9%"
    assert REJECTION["adversarially trained", 0.015, "p = 0.99"]["recall"].value == Fraction(
        759, 1000
    )
    cifar = "CIFAR-10", "linf 0.03"
    reached = {t: CCAT_ERRORS[(*cifar, t)]["robust_error_iclr at tau"] for t in ("AT", "CCAT")}
    assert {name: rate.printed for name, rate in reached.items()} == {
        "AT": "62.3%",
        "CCAT": "67.9%",
    }
    weak, strong = (
        CCAT_ATTACK_STRENGTH["CCAT", attack]["robust_error_iclr at tau"].value
        for attack in (
            "zero start, 300 steps",
            "momentum, backtracking, zero start, 4000 steps",
        )
    )
    assert (weak, strong) == (Fraction(26, 1000), Fraction(233, 1000))
    assert LABEL_SMOOTHING.value == Fraction(3, 4)


def test_a_published_rate_has_the_interval_of_its_denominator() -> None:
    rate = REJECTION["adversarially trained", 0.01, "p = 0.9"]["awpr_original"]
    assert rate.proportion == Proportion(110, 1000)
    low, high = rate.to_dict()["interval"]
    assert (high - low) / 2 == pytest.approx(0.019, abs=1e-3)  # spec A.8: +-1.9 points
    assert LABEL_SMOOTHING.proportion is None
    with pytest.raises(ValueError, match="tag is 'M', expected one of S, P, R, A"):
        Published(Fraction(1), "1", "memory", "M")  # type: ignore[arg-type]  # what the test is about


def test_every_published_row_is_there_without_measurements() -> None:
    for make, published in (
        (separation_rows, SEPARATION),
        (rejection_rows, REJECTION),
        (ccat_rows, CCAT_ERRORS),
        (ccat_attack_rows, CCAT_ATTACK_STRENGTH),
        (ccat_distal_rows, CCAT_DISTAL),
    ):
        rows = make({}, differs="")  # type: ignore[operator]  # of five signatures
        assert len(rows) == sum(len(quantities) for quantities in published.values())
        assert all(row.ours is None and row.published is not None for row in rows)
        assert "not measured; source: " in str(rows[0])


def test_separation_stands_beside_table_1() -> None:
    ours = Separation(Proportion(3, 50), confidence=0.9, radius=0.03)
    rows = separation_rows({"natural": ours, "small_cnn": ours}, differs=DIFFERS)
    hits = find(rows, "hits", model="natural")
    assert hits.ours == Proportion(3, 50)
    assert hits.published is not None
    assert hits.published.printed == "277/300"
    assert find(rows, "chebyshev_lower", model="natural").ours == float(ours.chebyshev_lower)
    alone = find(rows, "exact_upper", model="small_cnn")
    assert alone.published is None
    assert alone.ours == ours.exact_bounds[1]


def test_rejection_stands_beside_tables_2_and_3() -> None:
    metrics = rejection_metrics_at(OUTCOMES, 0.5)
    model = "adversarially trained"
    measured = {(model, 0.02, "p = 0.95"): metrics, (model, 0.02, "TPR 99%"): metrics}
    rows = rejection_rows(measured, differs=DIFFERS)
    settings = list(dict.fromkeys(tuple(row.setting.values()) for row in rows))
    assert settings == [*REJECTION, (model, 0.02, "TPR 99%")]  # the source's order, then ours
    row = find(rows, "awpr_with_rejection", threshold="p = 0.95", radius=0.02)
    assert row.ours == metrics.awpr_with_rejection
    assert row.published is not None
    assert (row.published.printed, row.published.tag) == ("9%", "S")
    assert find(rows, "recall", threshold="TPR 99%").published is None


def test_recovery_stands_beside_table_4() -> None:
    ours = recovery_table(random_table(0))
    rows = recovery_rows({0.01: ours}, differs=DIFFERS)
    row = find(rows, "label change, second", radius=0.01)
    assert row.ours == Proportion(ours.label_change.second, ours.label_change.total)
    assert row.published is not None
    assert (row.published.printed, row.published.tag) == ("208/352", "S")
    derived = find(rows, "accuracy_after", radius=0.015)
    assert derived.ours is None
    assert derived.published is not None
    assert (derived.published.printed, derived.published.tag) == ("8625/9000", "A")


def test_robustness_has_base_beside_defended_and_the_bound() -> None:
    base = robust_error(worst_case_outcomes(random_table(0), "base"), 0.5)
    defended = robust_error(worst_case_outcomes(random_table(0), "defended"), 0.5)
    bound = HalfRadiusBound(Proportion(5, 12), 0.9, 0.01, "attack")
    rows = robustness_rows(
        {"union": (base, defended)},
        radius=0.01,
        half_radius=bound,
        gradient_steps={"base": 0, "defended": 200},
    )
    assert find(rows, "with_rejection", classifier="base").ours == base.with_rejection
    assert find(rows, "with_rejection", classifier="defended").ours == defended.with_rejection
    estimate = find(rows, "robust accuracy, estimate of the lower bound")
    assert estimate.ours == Proportion(5, 12)
    assert find(rows, "gradient steps for each image", classifier="defended").ours == 200.0
    assert "not stated by the source" in str(estimate)
    with pytest.raises(ValueError, match=r"half_radius is of radius 0.01, expected 0.02"):
        robustness_rows({}, radius=0.02, half_radius=bound)


def test_ccat_stands_beside_its_tables() -> None:
    tau = calibrated_threshold(OUTCOMES.clean_score, OUTCOMES.right, 0.95)
    at_zero, at_tau = ccat_metrics(OUTCOMES, 0.0), ccat_metrics(OUTCOMES, tau)
    area = detection(OUTCOMES).areas()["against_all"]
    key = ("SVHN", "linf 0.03", "CCAT")
    rows = ccat_rows({key: (at_zero, at_tau, area)}, differs=DIFFERS)
    setting = {"data": "SVHN", "threat": "linf 0.03", "training": "CCAT"}
    row = find(rows, "robust_error_iclr at tau", **setting)
    assert row.ours == at_tau.robust_error_iclr
    assert row.published is not None
    assert row.published.printed == "38.5%"
    assert find(rows, "auc", **setting).ours == area
    assert find(rows, "tau", **setting).ours == tau
    assert find(rows, "false_positive_rate at tau", **setting).published is None
    distal = ccat_distal_rows({("SVHN", "noise", "AT"): (area, at_tau.tpr)}, differs=DIFFERS)
    assert find(distal, "auc", data="SVHN", input="noise", training="AT").ours == area


def test_disentangling_has_no_numbers_to_stand_beside() -> None:
    rate = Proportion(1, 4)
    errors = DisentanglingErrors(rate, rate, rate, rate, rate)
    rows = disentangling_rows({("normal", "true", 250, 0): errors})
    assert len(rows) == 5
    assert all(row.published is None and row.ours == rate for row in rows)


def test_a_number_of_another_setting_says_so() -> None:
    (row,) = (
        row
        for row in separation_rows({}, differs="Fashion-MNIST, small_cnn")
        if row.quantity == "chebyshev_upper"
    )
    assert str(row) == (
        "model adversarially trained, radius 0.03, p 0.9: chebyshev_upper not measured; source: "
        "14/75 [S] Wu et al. 2018 (arXiv v3), Proposition 4 in another setting "
        "(Fashion-MNIST, small_cnn)"
    )
    assert row.to_dict()["differs"] == "Fashion-MNIST, small_cnn"


def test_rows_are_plain_data() -> None:
    rows = rejection_rows({}, differs="") + recovery_rows(
        {0.01: recovery_table(random_table(0))}, differs=DIFFERS
    )
    plain = json.loads(json.dumps([row.to_dict() for row in rows], allow_nan=False))
    assert plain[0]["published"]["tag"] == "S"
    measured = [row for row in plain if row["ours"] is not None]
    assert all({"count", "total", "low", "high"} <= set(row["ours"]) for row in measured)


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 parts, expected model, radius"):
        comparison_rows("t", ("model", "radius"), {("a",): {}}, {}, "")
