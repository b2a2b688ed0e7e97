"""What the rows of one model say in the experiment on CCAT, at the threshold of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hcnn_fast.evaluation import (
    AreaUnderCurve,
    AttemptTable,
    CcatMetrics,
    Proportion,
    StratifiedPoint,
    calibrated_threshold,
    ccat_metrics,
    detection,
    distal_detection,
    stratified_rejection,
    worst_case_outcomes,
)
from hcnn_fast.experiments.ccat_attacks import (
    DISTAL,
    FRAME,
    FRAMED,
    NO_BACKTRACKING,
    RANDOM,
    STRONG,
    TARGETED,
    Threat,
)

TPR = 0.99
NOISE = "noise"


@dataclass(frozen=True)
class Calibrated:
    """What one model came to.

    Attributes:
        threshold: tau, which keeps `TPR` of the right answers to clean held-out images.
        threats: by threat the metrics at 0 and at tau, and the area under the ROC curve.
        alone: false positive rate of single attacks at the seen radius, by attack.
        noise: area and false positive rate of noise, and of distal points made of it.
        stratified: errors when rejection within a share of the seen radius is one.
    """

    threshold: float
    threats: Mapping[str, tuple[CcatMetrics, CcatMetrics, AreaUnderCurve]]
    alone: Mapping[str, CcatMetrics]
    noise: Mapping[str, tuple[AreaUnderCurve, Proportion]]
    stratified: tuple[StratifiedPoint, ...]


def threats_in(table: AttemptTable) -> tuple[Threat, ...]:
    """The balls and frames of a table, in the order of its rows; small balls are no threats."""
    seen = {
        (norm, float(radius)): None
        for attack, norm, radius in zip(table.attack, table.norm, table.radius, strict=True)
        if attack in (STRONG, FRAME)
    }
    return tuple(
        Threat(
            f"frame of {radius:g}" if norm == FRAMED else f"{norm} {radius:g}",
            norm,
            radius,
        )
        for norm, radius in seen
    )


def measure(table: AttemptTable, held_out: AttemptTable) -> Calibrated:
    """One model's numbers; a pure function of its rows."""
    right = held_out.base.right(held_out.label)  # [H]
    threshold = calibrated_threshold(held_out.base.confidence, right, TPR)
    images, noise = table.take(table.example >= 0), table.take(table.example < 0)
    threats = {}
    found = threats_in(images)
    for threat in found:
        some = images.select(norm=threat.norm, up_to_radius=threat.radius)
        outcomes = worst_case_outcomes(some, "base")
        area = detection(outcomes).against_all.area()
        threats[threat.name] = (
            ccat_metrics(outcomes, 0.0),
            ccat_metrics(outcomes, threshold),
            area,
        )
    seen = found[0].radius
    alone = {}
    for attack in (STRONG, NO_BACKTRACKING, RANDOM, TARGETED):
        some = images.select(attacks=[attack], norm="linf", radius=seen)
        alone[attack] = ccat_metrics(worst_case_outcomes(some, "base"), threshold)
    reference = worst_case_outcomes(images, "base")
    plain = noise.take(noise.is_clean())
    inputs = {}
    for name, some in ((NOISE, plain), (DISTAL, noise)):
        outcomes = worst_case_outcomes(some, "base")
        curve = distal_detection(reference, outcomes)
        accepted = (outcomes.clean_score >= threshold) | (outcomes.attacked_score >= threshold)
        inputs[name] = (curve.area(), Proportion(int(accepted.sum()), len(accepted)))
    return Calibrated(
        threshold,
        threats,
        alone,
        inputs,
        stratified_rejection(images.select(norm="linf"), "base", threshold=threshold, radius=seen),
    )
