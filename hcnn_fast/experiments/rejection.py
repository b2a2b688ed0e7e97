"""Tables 2 and 3 of Wu et al. 2018: attacked points that pass a threshold on the confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hcnn_fast.evaluation import (
    AttemptTable,
    Outcomes,
    Proportion,
    RejectionMetrics,
    calibrated_threshold,
    concatenate,
    rejection_metrics_at,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.side_by_side import rejection_rows
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.attempts import clean_rows, strengthened_rows
from hcnn_fast.experiments.beside import quantity_columns
from hcnn_fast.experiments.experiment import Drawing, Evidence, Experiment, Findings, Work
from hcnn_fast.experiments.half_radius import (
    half_radius_bounds,
    half_radius_rows,
    half_radius_table,
)
from hcnn_fast.experiments.settings import Budget

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTACK = "strengthened PGD"
TRUE_POSITIVE_RATES = (0.95, 0.99)  # of the thresholds that the paper does not have (CCAT's rule)
CURVE_POINTS = 200  # thresholds of a curve

Key = tuple[str, float, str]  # role, radius, name of the threshold


def attempts(work: Work) -> AttemptTable:
    """Every wrong class made as confident as can be, from random starts, at every radius."""
    settings = work.settings
    rows = [
        strengthened_rows(work, radius, attack=ATTACK, starts=settings.starts)
        for radius in settings.radii
    ]
    return concatenate([clean_rows(work), *rows])


def thresholds(found: Evidence, role: str) -> dict[str, float]:
    """The thresholds by name: the paper's p, and those that keep a share of held-out answers."""
    held = found.held_out[role]
    right = held.base.right(held.label)  # [H]
    named = {f"p = {p:g}": p for p in found.settings.confidences}
    for tpr in TRUE_POSITIVE_RATES:
        named[f"TPR {tpr:.0%}"] = calibrated_threshold(held.base.confidence, right, tpr)
    return named


def findings(found: Evidence) -> Findings:
    """AWPR without and with rejection, and recall, by model, radius and threshold."""
    settings = found.settings
    outcomes = {
        (role, radius): worst_case_outcomes(table.select(radius=radius), "base")
        for role, table in found.tables.items()
        for radius in settings.radii
    }
    named = {role: thresholds(found, role) for role in found.tables}
    measured: dict[Key, RejectionMetrics] = {
        (role, radius, name): rejection_metrics_at(some, threshold)
        for (role, radius), some in outcomes.items()
        for name, threshold in named[role].items()
    }
    rows = rejection_rows(measured, differs=found.differs)
    table = quantity_columns(
        "Attacked points with a wrong answer (AWPR), and what rejection leaves of them",
        rows,
        found,
        {
            "awpr_original": "AWPR",
            "awpr_with_rejection": "AWPR with rejection",
            "recall": "recall (clean)",
        },
        notes=(
            "Denominator of all three: points that the model gets right when clean. Recall: those"
            " of them that are accepted when clean.",
            "The attack looks for the most confident wrong class, on the model alone: AWPR is a"
            " lower bound of what an attacker can reach.",
            *(
                f"{role}: thresholds for TPR 95% and 99% are {values['TPR 95%']:.3f} and"
                f" {values['TPR 99%']:.3f}, from {len(found.held_out[role])} clean held-out images,"
                " none of them attacked."
                for role, values in named.items()
            ),
        ),
    )
    halves = half_radius_rows(half_radius_bounds(found), measured, differs=found.differs)
    return Findings(
        tables=(table, half_radius_table(halves, found)),
        reading=tuple(s for role in found.tables for s in _reading(role, found, measured)),
        numbers={
            "thresholds": named,
            "rejection": [
                {"model": role, "radius": radius, "threshold": name, **metrics.to_dict()}
                for (role, radius, name), metrics in measured.items()
            ],
            "side_by_side": [row.to_dict() for row in (*rows, *halves)],
        },
        drawings=(
            Drawing(
                "awpr-recall",
                "Wrong answers that pass the threshold against clean points that do, for all"
                " thresholds; band: exact 95% intervals at the largest radius.",
                lambda: _curves(outcomes, found),
            ),
            Drawing(
                "accuracy-radius",
                "Points without a wrong answer that is accepted, against the attack's radius;"
                " bands: exact 95% intervals.",
                lambda: _accuracy(found),
            ),
            figures.confidence_drawing(found, settings.radii[-1], {ATTACK}),
        ),
    )


def _reading(role: str, found: Evidence, measured: dict[Key, RejectionMetrics]) -> tuple[str, ...]:
    radius, p = found.settings.radii[-1], found.settings.confidences[0]
    metrics = measured[role, radius, f"p = {p:g}"]
    wrong, left, kept = metrics.awpr_original, metrics.awpr_with_rejection, metrics.recall
    said = [
        f"{role} ({found.names[role]}): at radius {radius:g} the attack turns {wrong.count} of"
        f" {wrong.total} points to a wrong answer. Rejecting below {p:g} leaves {left.count} of"
        f" them, and {kept.count} of {kept.total} clean points stay accepted."
    ]
    if left.count and left.interval[0] > 0.5:
        said.append(
            f"So most points of the {role} model can be given a wrong answer of confidence {p:g}:"
            " there a threshold on the confidence is no protection."
        )
    elif wrong.count and left.interval[1] < wrong.interval[0]:
        said.append(
            f"So rejection removes more of the wrong answers of the {role} model than chance"
            " explains; the attack knows the model and not the threshold."
        )
    return tuple(said)


def _curves(outcomes: dict[tuple[str, float], Outcomes], found: Evidence) -> Figure:
    panels: dict[str, list[figures.Line]] = {role: [] for role in found.tables}
    for (role, radius), some in outcomes.items():
        scores = torch.cat((some.clean_score, some.wrong_score.clamp_min(0.0)))  # [2N]
        steps = torch.linspace(0.0, 1.0, CURVE_POINTS, dtype=torch.float64)  # [T]
        seen = torch.quantile(scores, steps, interpolation="nearest")  # [T]
        levels = [0.0, *torch.unique(seen).tolist(), 1.0]
        metrics = [rejection_metrics_at(some, level) for level in levels]
        line = figures.Line(
            f"radius {radius:g}",
            [m.recall.value for m in metrics],
            [m.awpr_with_rejection for m in metrics],
            band=radius == found.settings.radii[-1],
        )
        panels[role].append(line)
    return figures.curves(
        panels, x_label="recall: clean points accepted", y_label="AWPR with rejection"
    )


def _accuracy(found: Evidence) -> Figure:
    panels = {}
    for role, table in found.tables.items():
        levels = {"no rejection": 0.0, **{f"p = {p:g}": p for p in found.settings.confidences}}
        panels[role] = [
            figures.Line(
                name,
                (0.0, *found.settings.radii),
                [
                    Proportion(len(some), len(some)) if radius == 0.0 else _unharmed(some, level)
                    for radius in (0.0, *found.settings.radii)
                    for some in (worst_case_outcomes(table.select(up_to_radius=radius), "base"),)
                ],
            )
            for name, level in levels.items()
        ]
    return figures.curves(panels, x_label="l_inf radius", y_label="no wrong answer accepted")


def _unharmed(some: Outcomes, threshold: float) -> Proportion:
    wrong = rejection_metrics_at(some, threshold).awpr_with_rejection
    return Proportion(wrong.total - wrong.count, wrong.total)


REJECTION = Experiment(
    name="rejection",
    title="Rejection: do attacked points pass a threshold on the confidence?",
    question="How many attacked points get a wrong answer of confidence p, and how many clean"
    " points does the threshold cost (Wu et al. 2018, Tables 2 and 3)?",
    paper_radii=(0.010, 0.015, 0.020, 0.030),
    confidences=(0.9, 0.95, 0.99),
    budget=Budget(points=1000, steps=100, starts=10),
    small_budget=Budget(points=128, steps=40, starts=2),
    right_only=True,
    held_out=clean_rows,
    both_models=True,
    attempts=attempts,
    findings=findings,
)
