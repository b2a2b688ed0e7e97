"""The robustness that exact MCN must reach at half the radius in which confidence is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from hcnn_fast.evaluation.intervals import Proportion, plain_values
from hcnn_fast.evaluation.outcomes import worst_case_outcomes
from hcnn_fast.evaluation.separation import Decision, wrong_class_is_confident
from hcnn_fast.evaluation.table import AttemptTable, Classifier


@dataclass(frozen=True)
class HalfRadiusBound:
    """A lower bound on the robust accuracy of exact MCN (half-radius lemma; spec A.4).

    If no wrong class reaches p within delta of x, and the true class has p at x, then exact MCN and
    exact NCN with search radius delta / 2 answer rightly at every x' within delta / 2 of x: the
    ball around x' holds x itself, and no point where a wrong class is p-confident.

    Attributes:
        good: points with both properties, of all.
        confidence: p.
        radius: eta = delta / 2, of attack and search.
        decided: "exact", or "attack": then points were called good for want of a found
            counter-example, and the bound is itself only an upper estimate.
    """

    good: Proportion
    confidence: float
    radius: float
    decided: Decision

    @property
    def is_guarantee(self) -> bool:
        """Whether robust accuracy at `radius` is at least the share of good points."""
        return self.decided == "exact"

    def to_dict(self) -> dict[str, Any]:
        """The proportion, p, the radius and what it proves as plain values."""
        return {**plain_values(self), "is_guarantee": self.is_guarantee}


def half_radius_bound(
    table: AttemptTable,
    classifier: Classifier,
    *,
    confidence: float,
    radius: float,
    decided: Decision = "attack",
) -> HalfRadiusBound:
    """Count the points that the half-radius lemma covers.

    Args:
        table: a clean row for every point, and attempts that raise a wrong class within 2 * radius.
        classifier: the one that MCN searches with, usually "base".
        confidence: p.
        radius: eta; attempts up to 2 * eta count.
        decided: "exact" only if the attempts are exact maximisers.

    Raises:
        ValueError: an example without a clean row or without an attempt within 2 * radius.
    """
    within = table.select(up_to_radius=2.0 * radius)
    found = worst_case_outcomes(within, classifier)
    found.check_attacked(torch.ones_like(found.right))
    certain = found.right & (found.clean_score >= confidence)  # [N] F_y(x) >= p
    good = certain & ~wrong_class_is_confident(within, classifier, confidence)  # [N]
    return HalfRadiusBound(
        good=Proportion(int(good.sum()), len(found)),
        confidence=confidence,
        radius=radius,
        decided=decided,
    )


def half_radius_bound_from_rates(recall: Fraction, awpr_with_rejection: Fraction) -> Fraction:
    """The same bound from published rates at radius delta: recall - AWPR(with rejection).

    Of the points that are accepted when clean at p, at most AWPR are not (p, delta)-good; both
    rates have the correctly classified points as denominator.
    """
    return max(recall - awpr_with_rejection, Fraction(0))
