"""What the rows of the adaptive attacks say, radius by radius."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hcnn_fast.evaluation import (
    Acceptance,
    AttemptTable,
    HalfRadiusBound,
    PairedDifference,
    StratifiedPoint,
    acceptance,
    half_radius_bound,
    paired_difference,
    stratified_rejection,
)
from hcnn_fast.evaluation.table import CLEAN, Classifier
from hcnn_fast.experiments.adaptive_attacks import (
    BLACK_BOX,
    DANSKIN,
    GOALS,
    LONG_RANGE,
    SHARES,
    STATIC,
    aimed,
    at_radius,
    rejecting,
    threshold_of,
)
from hcnn_fast.experiments.experiment import Evidence

CLASSIFIERS: tuple[Classifier, Classifier] = ("base", "defended")
NOTHING, ALL_STATIC, REJECTING, UNION = (
    "none (clean)",
    "static, all",
    "aimed at rejection",
    "union of all",
)


def attack_groups() -> dict[str, Collection[str] | None]:
    """Attacks by the names of their rows; None stands for all."""
    groups: dict[str, Collection[str] | None] = {NOTHING: ()}
    groups.update({name: (name,) for name in STATIC})
    groups[ALL_STATIC] = STATIC
    for name in (LONG_RANGE, DANSKIN):
        groups[name] = tuple(aimed(name, goal) for goal in GOALS)
    groups.update({name: (name,) for name in BLACK_BOX})
    groups[REJECTING] = tuple(rejecting(c, share) for c in CLASSIFIERS for share in SHARES)
    groups[UNION] = None
    return groups


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What four classifiers make of the clean points and those of one attack.

    Attributes:
        plain: base and MCN, accepting every answer.
        rejecting: both, each with its own threshold.
        gradient_steps: of the attack for an image on average, its searches not counted.
        searches: that it asked of the whole defence for an image on average.
    """

    plain: Mapping[Classifier, Acceptance]
    rejecting: Mapping[Classifier, Acceptance]
    gradient_steps: int
    searches: int

    @property
    def gain(self) -> PairedDifference:
        """MCN against the base, on the same points and attempts."""
        return paired_difference(*(self.plain[name].right for name in CLASSIFIERS))

    @property
    def gain_with_rejection(self) -> PairedDifference:
        """The same for points of which no wrong answer is accepted."""
        return paired_difference(*(~self.rejecting[name].wrong for name in CLASSIFIERS))

    def to_dict(self) -> dict[str, Any]:
        """Rates, gains and cost as plain values."""
        return {
            **{name: each.to_dict() for name, each in self.plain.items()},
            **{f"{name} + rejection": each.to_dict() for name, each in self.rejecting.items()},
            "gain": self.gain.to_dict(),
            "gain_with_rejection": self.gain_with_rejection.to_dict(),
            "gradient_steps": self.gradient_steps,
            "searches": self.searches,
        }


@dataclass(frozen=True, kw_only=True)
class RadiusOutcome:
    """Everything measured at one radius of attack and search.

    Attributes:
        thresholds: smallest confidences that are accepted.
        attacks: by name; the clean points first, the union last.
        stratified: rejection of small perturbations, at the shares that an attack aimed at.
        bounds: of the half-radius lemma, one for each p.
    """

    thresholds: Mapping[Classifier, float]
    attacks: Mapping[str, AttackOutcome]
    stratified: Mapping[Classifier, tuple[StratifiedPoint, ...]]
    bounds: tuple[HalfRadiusBound, ...]

    @property
    def union(self) -> AttackOutcome:
        """All attempts on each point."""
        return self.attacks[UNION]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "thresholds": dict(self.thresholds),
            "attacks": {name: each.to_dict() for name, each in self.attacks.items()},
            "stratified": {
                name: [point.to_dict() for point in points]
                for name, points in self.stratified.items()
            },
            "half_radius": [bound.to_dict() for bound in self.bounds],
        }


def measured_at(
    table: AttemptTable,
    held_out: AttemptTable,
    radius: float,
    confidences: Collection[float],
) -> RadiusOutcome:
    """Read one radius from the rows of `adaptive_attacks`.

    Args:
        table: attempts of all radii.
        held_out: answers on points that no attack has seen.
        radius: of attack and search.
        confidences: the p of the half-radius lemma.
    """
    here = at_radius(table, radius)
    thresholds = {name: threshold_of(held_out, name, radius) for name in CLASSIFIERS}
    return RadiusOutcome(
        thresholds=thresholds,
        attacks={
            name: _outcome(here.select(attacks=attacks), thresholds)
            for name, attacks in attack_groups().items()
        },
        stratified={
            name: stratified_rejection(
                here, name, threshold=thresholds[name], radius=radius, shares=(0.0, *SHARES)
            )
            for name in CLASSIFIERS
        },
        bounds=tuple(
            half_radius_bound(table, "base", confidence=p, radius=radius) for p in confidences
        ),
    )


def _outcome(table: AttemptTable, thresholds: Mapping[Classifier, float]) -> AttackOutcome:
    attacked = torch.tensor([name != CLEAN for name in table.attack])  # [R]
    images = len(torch.unique(table.example))
    return AttackOutcome(
        plain={name: acceptance(table, name) for name in CLASSIFIERS},
        rejecting={name: acceptance(table, name, thresholds[name]) for name in CLASSIFIERS},
        gradient_steps=round(int(table.gradient_steps[attacked].sum()) / images),
        searches=round(int(table.queries[attacked].sum()) / images),
    )


def measured(found: Evidence) -> dict[float, RadiusOutcome]:
    """Every radius of an experiment."""
    (role,) = found.tables
    settings = found.settings
    return {
        radius: measured_at(found.tables[role], found.held_out[role], radius, settings.confidences)
        for radius in settings.radii
    }
