"""Where the true class stands among the points of MCN's search: Table 4 of Wu et al. 2018."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation.intervals import Proportion
from hcnn_fast.evaluation.table import NOT_RANKED, AttemptTable

MISSING, FIRST, SECOND = 0, 1, 2


def label_ranks(
    label_confidence: Tensor,  # [N, L] largest probability at the point of each label
    label_prediction: Tensor,  # [N, L] int64 class predicted there
    label: Tensor,  # [N] int64 true class
) -> Tensor:  # [N] int64
    """The place of the true class among the points of a search, sorted by their confidence.

    1 for the most confident point, 0 where no point is predicted as the true class. Of points of
    equal confidence the one of the lower label comes first. The columns are those of
    `SearchResult.label_confidence` and `label_prediction`.

    Raises:
        ValueError: the shapes do not fit, or a confidence is NaN.
    """
    if label_confidence.ndim != 2 or label_confidence.shape != label_prediction.shape:
        shapes = f"{tuple(label_confidence.shape)} and {tuple(label_prediction.shape)}"
        raise ValueError(
            f"label_confidence and label_prediction have the shapes {shapes}, expected [N, L]"
        )
    if label.shape != label_confidence.shape[:1]:
        raise ValueError(
            f"label has the shape {tuple(label.shape)}, expected [{len(label_confidence)}]"
        )
    if bool(label_confidence.isnan().any()):
        raise ValueError("label_confidence has NaN, expected probabilities")
    order = label_confidence.argsort(dim=1, descending=True, stable=True)  # [N, L]
    right = label_prediction.gather(1, order) == label[:, None]  # [N, L]
    place = torch.arange(1, right.shape[1] + 1, device=right.device)  # [L]
    absent = len(place) + 1
    first = torch.where(right, place, absent).amin(1) if len(place) else label.new_zeros(len(label))
    return torch.where(first == absent, MISSING, first)


@dataclass(frozen=True)
class RecoveryCounts:
    """Attempts by the place of the true class; a column of Table 4.

    Attributes:
        first: it is the most confident point: MCN answers rightly.
        second: it is the second most confident.
        other: it is among the other points.
        missing: no point is predicted as it.
    """

    first: int
    second: int
    other: int
    missing: int

    @property
    def total(self) -> int:
        """All attempts of the column."""
        return self.first + self.second + self.other + self.missing


@dataclass(frozen=True)
class RecoveryTable:
    """What MCN makes of attempts, apart for those that changed the label and those that did not.

    Counts are over attempts (image and target), as published; the worst case per image, which a
    statement about robustness needs, is `robust_error`.

    Attributes:
        label_change: attempts that the base classifier answers wrongly.
        confidence_reduction: attempts that it answers rightly.
    """

    label_change: RecoveryCounts
    confidence_reduction: RecoveryCounts

    @property
    def total(self) -> int:
        """All attempts."""
        return self.label_change.total + self.confidence_reduction.total

    @property
    def accuracy_before(self) -> Proportion:
        """Attempts that the base classifier answers rightly."""
        return Proportion(self.confidence_reduction.total, self.total)

    @property
    def accuracy_after(self) -> Proportion:
        """Attempts that MCN answers rightly."""
        return Proportion(self.label_change.first + self.confidence_reduction.first, self.total)

    @property
    def recovered(self) -> Proportion:
        """Of the attempts that changed the label, those that MCN answers rightly."""
        return Proportion(self.label_change.first, self.label_change.total)

    @property
    def broken(self) -> Proportion:
        """Of the attempts that did not change the label, those that MCN answers wrongly."""
        column = self.confidence_reduction
        return Proportion(column.total - column.first, column.total)

    @property
    def within_two(self) -> Proportion:
        """Attempts whose true class is one of the two most confident points."""
        columns = (self.label_change, self.confidence_reduction)
        return Proportion(sum(c.first + c.second for c in columns), self.total)

    @property
    def net_gain(self) -> int:
        """Attempts answered rightly with MCN, less those without."""
        return self.recovered.count - self.broken.count

    def to_dict(self) -> dict[str, Any]:
        """The counts and what is derived from them as plain values."""
        rates = ("accuracy_before", "accuracy_after", "recovered", "broken", "within_two")
        return {
            "label_change": asdict(self.label_change),
            "confidence_reduction": asdict(self.confidence_reduction),
            "net_gain": self.net_gain,
            **{name: getattr(self, name).to_dict() for name in rates},
        }


def recovery_table(table: AttemptTable) -> RecoveryTable:
    """Count the attempts of a table by the place of the true class in the defence's search.

    Args:
        table: attempts on the base classifier, one row for each target; clean rows count nowhere.

    Raises:
        ValueError: an attempt without a measured rank.
    """
    attempts = table.take(~table.is_clean())
    unknown = attempts.example[attempts.label_rank == NOT_RANKED]
    if len(unknown):
        raise ValueError(
            f"label_rank is not measured in {len(unknown)} attempts, the first on example "
            f"{int(unknown[0])}, expected ranks as of label_ranks"
        )
    unchanged = attempts.base.right(attempts.label)  # [R]

    def counts(rows: Tensor) -> RecoveryCounts:  # [R] bool
        rank = attempts.label_rank[rows]
        return RecoveryCounts(
            first=int((rank == FIRST).sum()),
            second=int((rank == SECOND).sum()),
            other=int((rank > SECOND).sum()),
            missing=int((rank == MISSING).sum()),
        )

    return RecoveryTable(label_change=counts(~unchanged), confidence_reduction=counts(unchanged))
