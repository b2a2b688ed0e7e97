"""Receiver operating characteristic of a score that should be high for positives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation.answers import as_column
from hcnn_fast.evaluation.intervals import Proportion


@dataclass(frozen=True)
class AreaUnderCurve:
    """P(a positive scores above a negative) + P(equal) / 2, with the two denominators.

    Attributes:
        value: the area; 1 without negatives (the convention of Stutz et al. 2020), NaN without
            positives.
        positives: how many.
        negatives: how many.
        level: coverage of `interval`.
    """

    value: float
    positives: int
    negatives: int
    level: float = 0.95

    @property
    def interval(self) -> tuple[float, float]:
        """Hoeffding's interval for a two-sample U-statistic (1963, section 5a): wide but valid.

        The half width is sqrt(log(2 / (1 - level)) / (2 min(positives, negatives))), whatever the
        distributions, also where the area is 0 or 1.
        """
        fewer = min(self.positives, self.negatives)
        if fewer == 0:
            return 0.0, 1.0
        half = math.sqrt(math.log(2.0 / (1.0 - self.level)) / (2.0 * fewer))
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def __str__(self) -> str:
        low, high = self.interval
        counts = f"{self.positives} positives, {self.negatives} negatives"
        return f"{self.value:.3f} [{low:.3f}-{high:.3f}] ({counts})"

    def to_dict(self) -> dict[str, Any]:
        """The area (None without positives), the counts and the interval as plain values."""
        low, high = self.interval
        return {
            "value": None if math.isnan(self.value) else self.value,
            "positives": self.positives,
            "negatives": self.negatives,
            "level": self.level,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class RocCurve:
    """Counts of both kinds at or above every threshold where they change.

    Attributes:
        threshold: [T] float64, first one that keeps nothing (+inf, or NaN where a score is +inf),
            then the distinct scores descending.
        true_positives: [T] int64, positives with score >= threshold.
        false_positives: [T] int64, negatives with score >= threshold.
        positives: all positives.
        negatives: all negatives.
    """

    threshold: Tensor
    true_positives: Tensor
    false_positives: Tensor
    positives: int
    negatives: int

    def area(self) -> AreaUnderCurve:
        """The area under the curve by the trapezoid rule, in whole numbers until the division."""
        if self.positives == 0 or self.negatives == 0:
            value = math.nan if self.positives == 0 else 1.0
            return AreaUnderCurve(value, self.positives, self.negatives)
        width = self.false_positives.diff()  # [T - 1]
        height = self.true_positives[1:] + self.true_positives[:-1]  # [T - 1]
        doubled = int((width * height).sum())
        value = doubled / (2 * self.positives * self.negatives)
        return AreaUnderCurve(value, self.positives, self.negatives)

    def false_positive_rate_at(self, tpr: float) -> Proportion:
        """The share of negatives kept by the largest threshold that keeps a share `tpr`.

        Args:
            tpr: share in (0, 1] of the positives.

        Raises:
            ValueError: tpr outside (0, 1], or no positives.
        """
        if not 0.0 < tpr <= 1.0:
            raise ValueError(f"tpr is {tpr!r}, expected a number in (0, 1]")
        if self.positives == 0:
            raise ValueError("positives is 0, expected a positive to keep")
        needed = math.ceil(self.positives * tpr - 1e-9)
        first = int((self.true_positives >= needed).nonzero()[0])
        return Proportion(int(self.false_positives[first]), self.negatives)


def roc_curve(
    positives: Tensor,  # [P]
    negatives: Tensor,  # [M]
) -> RocCurve:
    """The curve over all thresholds of "score >= threshold"; equal scores are kept together.

    Args:
        positives: scores of what should be kept; -inf for what no finite threshold keeps.
        negatives: scores of what should not.

    Raises:
        TypeError, ValueError: not floats, NaN, or more than one dimension.
    """
    kept = as_column("positives", positives, torch.float64)  # [P]
    refused = as_column("negatives", negatives, torch.float64)  # [M]
    distinct = torch.unique(torch.cat((kept, refused))).flip(0)  # [T - 1]
    nothing = torch.nan if bool((distinct == torch.inf).any()) else torch.inf
    threshold = torch.cat((distinct.new_full((1,), nothing), distinct))  # [T]

    def at_least(scores: Tensor) -> Tensor:  # [T]
        ascending = scores.sort().values
        return len(scores) - torch.searchsorted(ascending, threshold, side="left")

    return RocCurve(
        threshold=threshold,
        true_positives=at_least(kept),
        false_positives=at_least(refused),
        positives=len(kept),
        negatives=len(refused),
    )
