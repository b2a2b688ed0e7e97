"""Rejecting a barely perturbed image as an error: the stratified metric of Chen et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hcnn_fast.evaluation.intervals import Proportion, plain_values
from hcnn_fast.evaluation.outcomes import any_attempt, worst_case_outcomes
from hcnn_fast.evaluation.robustness import check_threshold
from hcnn_fast.evaluation.table import RELATIVE_SLACK, AttemptTable, Classifier

# The shares alpha of the radius within which a rejection counts as an error, as in that study.
SHARES = (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class StratifiedPoint:
    """Errors when rejection is forbidden within a share of the radius.

    Attributes:
        share: alpha.
        radius: alpha times the radius of the attack.
        rejected: N examples of which some point within that radius is rejected.
        error: of which some point within it is rejected or wrong, or some attempt is wrong and
            accepted. At alpha = 1 every attempt must be answered rightly and accepted.
    """

    share: float
    radius: float
    rejected: Proportion
    error: Proportion

    def to_dict(self) -> dict[str, Any]:
        """The share, the radius and the proportions as plain values."""
        return plain_values(self)


def stratified_rejection(
    table: AttemptTable,
    classifier: Classifier,
    *,
    threshold: float,
    radius: float,
    shares: Sequence[float] = SHARES,
) -> tuple[StratifiedPoint, ...]:
    """The stratified rejection curve: errors over N as alpha grows from 0 to 1.

    A point counts as within alpha * radius by the distance it has, whatever attack it came from.
    The table should hold attempts that aim at rejection (lowest confidence) at the small radii, for
    without them the curve is a lower bound. The errors never fall with alpha. A classifier that
    rejects everything has the error 1 at every alpha.

    Args:
        table: attempts in one norm, and the clean images.
        classifier: "base" or "defended".
        threshold: smallest confidence that is accepted.
        radius: of the attack; attempts of larger radii are left out.
        shares: values of alpha in [0, 1].

    Raises:
        ValueError: an argument out of range, attempts in several norms, or an example without a
            clean row or without an attempt.
    """
    check_threshold(threshold)
    if not radius > 0.0:
        raise ValueError(f"radius is {radius!r}, expected a number > 0")
    for share in shares:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"shares has {share!r}, expected numbers in [0, 1]")
    norms = {name for name, clean in zip(table.norm, table.is_clean(), strict=True) if not clean}
    if len(norms) > 1:
        raise ValueError(f"table has the norms {', '.join(sorted(norms))}, expected one")
    table = table.select(up_to_radius=radius)
    outcomes = worst_case_outcomes(table, classifier)
    outcomes.check_attacked(torch.ones_like(outcomes.right))
    answers = table.answers(classifier)
    rejected = answers.score() < threshold  # [R]
    wrong = answers.wrong(table.label)  # [R]
    failed = any_attempt(table, wrong & ~rejected)  # [N]
    points = []
    for share in shares:
        near = table.distance <= share * radius * (1.0 + RELATIVE_SLACK)  # [R]
        near_rejected = any_attempt(table, rejected & near)  # [N]
        points.append(
            StratifiedPoint(
                share=share,
                radius=share * radius,
                rejected=Proportion(int(near_rejected.sum()), len(outcomes)),
                error=Proportion(int((near_rejected | failed).sum()), len(outcomes)),
            )
        )
    return tuple(points)
