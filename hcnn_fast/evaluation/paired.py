"""Two classifiers on the same examples: the difference of their accuracies, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

from torch import Tensor

from hcnn_fast.evaluation.intervals import clopper_pearson


@dataclass(frozen=True)
class PairedDifference:
    """By how much a second classifier is right more often than a first, on the same n examples.

    Only examples on which the two differ say anything about the difference; two intervals of the
    two accuracies, each with its own, would ignore that the examples are the same.

    Attributes:
        gained: examples that only the second gets right.
        lost: examples that only the first gets right.
        total: n.
        level: coverage of `interval`.
    """

    gained: int
    lost: int
    total: int
    level: float = 0.95

    def __post_init__(self) -> None:
        if min(self.gained, self.lost) < 0 or self.gained + self.lost > self.total:
            raise ValueError(
                f"gained is {self.gained} and lost {self.lost}, expected counts >= 0 of disjoint"
                f" examples among {self.total}"
            )
        if self.total < 1:
            raise ValueError(f"total is {self.total}, expected an int >= 1")

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first."""
        return (self.gained - self.lost) / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Exact interval of the difference, conservative.

        The shares of gained and of lost examples have a Clopper-Pearson interval each, of which
        either fails with half of the probability that is left: their difference holds with the
        whole `level` (Bonferroni). Equal answers on all n examples still leave room for chance.
        """
        level = 1.0 - (1.0 - self.level) / 2.0
        gained = clopper_pearson(self.gained, self.total, level)
        lost = clopper_pearson(self.lost, self.total, level)
        return gained[0] - lost[1], gained[1] - lost[0]

    @property
    def p_value(self) -> float:
        """Two-sided sign test (McNemar's, exact): chance of so uneven a split of equals."""
        differing = self.gained + self.lost
        tail = sum(comb(differing, k) for k in range(min(self.gained, self.lost) + 1))
        return min(1.0, float(2 * tail / 2**differing))

    @property
    def direction(self) -> int:
        """Which one is right more often beyond chance: 1 the second, -1 the first, 0 neither.

        By the sign test at 1 - `level`, which is sharper than `interval`.
        """
        if self.p_value > 1.0 - self.level:
            return 0
        return 1 if self.gained > self.lost else -1

    def __str__(self) -> str:
        """The difference in points of percentage, its interval and p, such as -3.1 [...]."""
        low, high = self.interval
        return (
            f"{100 * self.difference:+.1f} points, exact {self.level:.0%} interval"
            f" [{100 * low:+.1f}, {100 * high:+.1f}], sign test p = {self.p_value:.2g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Counts, difference, interval and p as plain values."""
        low, high = self.interval
        return {
            **vars(self),
            "difference": self.difference,
            "low": low,
            "high": high,
            "p_value": self.p_value,
        }


def paired_difference(first: Tensor, second: Tensor) -> PairedDifference:  # [N], [N] bool
    """Compare which of the same examples two classifiers get right.

    Raises:
        ValueError: columns of different lengths, or empty ones.
    """
    if first.shape != second.shape or first.ndim != 1:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"first and second have the shapes {shapes}, expected one shape [N]")
    return PairedDifference(
        gained=int((second & ~first).sum()),
        lost=int((first & ~second).sum()),
        total=len(first),
    )
