"""(p, q, delta)-separation estimated from attacks, and what such an estimate can prove."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hcnn_fast.evaluation.intervals import Proportion, clopper_pearson
from hcnn_fast.evaluation.outcomes import any_attempt, worst_case_outcomes
from hcnn_fast.evaluation.table import AttemptTable, Classifier

Decision = Literal["attack", "exact"]

DIRECTION: dict[Decision, str] = {
    "attack": (
        "an attack finds a subset of B: the lower bounds hold for Pr[B], the upper bounds only for "
        "this attack's success rate, so no separation is proved"
    ),
    "exact": "B was decided exactly: the lower and the upper bounds hold for Pr[B]",
}


@dataclass(frozen=True)
class Separation:
    """How often event B of Definition 2 was found: a wrong class is p-confident in the ball.

    The bounds are one-sided, each with its own probability: as in Propositions 4 and 5 of Wu et al.
    2018 by Chebyshev's inequality, and exact ones of Clopper and Pearson.

    Attributes:
        hits: B found, of the random points that were tried.
        confidence: p.
        radius: delta.
        epsilon: how far Chebyshev's bounds lie from the share of hits.
        level: probability with which each exact bound holds.
        decided: "attack" if B was looked for by an attack, "exact" if it was decided.
    """

    hits: Proportion
    confidence: float
    radius: float
    epsilon: Fraction = Fraction(1, 10)
    level: float = 0.9
    decided: Decision = "attack"

    def __post_init__(self) -> None:
        if self.hits.total == 0:
            raise ValueError("hits is 0/0, expected one point or more")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence is {self.confidence!r}, expected a number in [0, 1]")
        if not self.radius > 0.0:
            raise ValueError(f"radius is {self.radius!r}, expected a number > 0")
        epsilon: object = self.epsilon
        if not isinstance(epsilon, Fraction):
            kind = type(epsilon).__name__
            raise TypeError(f"epsilon is a {kind}, expected a Fraction such as Fraction(1, 10)")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}, expected a Fraction in (0, 1]")
        if not 0.5 <= self.level < 1.0:
            raise ValueError(f"level is {self.level!r}, expected a number in [0.5, 1)")
        if self.decided not in get_args(Decision):
            raise ValueError(f"decided is {self.decided!r}, expected 'attack' or 'exact'")

    @property
    def share(self) -> Fraction:
        """The share of hits, mu-hat, exactly."""
        return Fraction(self.hits.count, self.hits.total)

    @property
    def chebyshev_level(self) -> Fraction:
        """Probability with which each of Chebyshev's bounds holds: 1 - 1 / (4 epsilon^2 t).

        0 or less where the number t of points is too small for a statement.
        """
        return 1 - 1 / (4 * self.epsilon**2 * self.hits.total)

    @property
    def chebyshev_upper(self) -> Fraction:
        """mu-hat + epsilon, the q of Proposition 4; at most 1."""
        return min(self.share + self.epsilon, Fraction(1))

    @property
    def chebyshev_lower(self) -> Fraction:
        """mu-hat - epsilon, the bound of Proposition 5; at least 0."""
        return max(self.share - self.epsilon, Fraction(0))

    @property
    def exact_bounds(self) -> tuple[float, float]:
        """Clopper-Pearson lower and upper bound, each alone holding with probability `level`."""
        return clopper_pearson(self.hits.count, self.hits.total, 2.0 * self.level - 1.0)

    @property
    def upper_bounds_hold(self) -> bool:
        """Whether the upper bounds are bounds on Pr[B], hence the model separated."""
        return self.decided == "exact"

    @property
    def direction(self) -> str:
        """What the bounds prove, in words."""
        return DIRECTION[self.decided]

    def __str__(self) -> str:
        low, high = self.exact_bounds
        return (
            f"B at p = {self.confidence:g}, delta = {self.radius:g}: {self.hits}; "
            f"one-sided {self.level:.0%}: above {low:.1%}, below {high:.1%}; {self.direction}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Counts, bounds and direction as plain values, fractions as text."""
        low, high = self.exact_bounds
        return {
            "hits": self.hits.to_dict(),
            "confidence": self.confidence,
            "radius": self.radius,
            "epsilon": str(self.epsilon),
            "chebyshev_level": float(self.chebyshev_level),
            "chebyshev_lower": str(self.chebyshev_lower),
            "chebyshev_upper": str(self.chebyshev_upper),
            "level": self.level,
            "exact_lower": low,
            "exact_upper": high,
            "decided": self.decided,
            "upper_bounds_hold": self.upper_bounds_hold,
            "direction": self.direction,
        }


def points_needed(epsilon: Fraction, level: Fraction) -> int:
    """The smallest t with 1 / (4 epsilon^2 t) <= 1 - level, as Propositions 4 and 5 ask.

    Raises:
        ValueError: epsilon not in (0, 1] or level not in [0, 1).
    """
    if not 0 < epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}, expected a Fraction in (0, 1]")
    if not 0 <= level < 1:
        raise ValueError(f"level is {level}, expected a Fraction in [0, 1)")
    return math.ceil(1 / (4 * Fraction(epsilon) ** 2 * (1 - Fraction(level))))


def wrong_class_is_confident(
    table: AttemptTable,
    classifier: Classifier,
    confidence: float,
) -> Tensor:  # [N] bool
    """Event B of each example: in some row, clean or attacked, F_k >= p for a wrong class k.

    Examples stand in ascending order of their ids. Without `decided="exact"` attempts, False means
    that none was found.
    """
    return any_attempt(table, table.answers(classifier).wrong_confidence >= confidence)


def estimate_separation(
    table: AttemptTable,
    classifier: Classifier,
    *,
    confidence: float,
    radius: float,
    epsilon: Fraction = Fraction(1, 10),
    level: float = 0.9,
    decided: Decision = "attack",
) -> Separation:
    """Estimate Pr[B] from the attempts within a radius (Wu et al. 2018, section 3.2).

    Args:
        table: random points, each with a clean row and an attempt that raises a wrong class.
        classifier: "base" or "defended".
        confidence: p.
        radius: delta; attempts of larger radii are left out.
        epsilon: of Chebyshev's bounds.
        level: of the exact one-sided bounds.
        decided: "exact" only if the attempts are exact maximisers, as on a linear model.

    Raises:
        TypeError, ValueError: an argument out of range, or an example without a clean row or
            without an attempt within the radius.
    """
    within = table.select(up_to_radius=radius)
    found = worst_case_outcomes(within, classifier)
    found.check_attacked(torch.ones_like(found.right))
    hit = wrong_class_is_confident(within, classifier, confidence)  # [N]
    return Separation(
        hits=Proportion(int(hit.sum()), len(hit)),
        confidence=confidence,
        radius=radius,
        epsilon=epsilon,
        level=level,
        decided=decided,
    )
