"""Exact binomial intervals, and proportions that keep their denominator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

HALVINGS = 64  # of [0, 1]: below the spacing of float64 at every probability > 1e-3


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a binomial probability (Clopper and Pearson 1934).

    The lower end is the p at which P(X >= successes) is (1 - level) / 2, the upper end the p at
    which P(X <= successes) is that; both by bisection on the binomial tail, each rounded outwards.

    Args:
        successes: number of successes, 0 <= successes <= trials.
        trials: number of trials; 0 gives (0, 1).
        level: coverage in (0, 1).

    Raises:
        ValueError: an argument is outside its range.
    """
    if trials < 0:
        raise ValueError(f"trials is {trials}, expected an int >= 0")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes is {successes}, expected an int in [0, {trials}]")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}, expected a number in (0, 1)")
    tail = (1.0 - level) / 2.0
    log_factorial = numpy.concatenate(([0.0], numpy.log(numpy.arange(1, trials + 1)).cumsum()))

    def mass(p: float, first: int, last: int) -> float:  # P(first <= X <= last)
        k = numpy.arange(first, last + 1)  # [last - first + 1]
        log_choose = log_factorial[trials] - log_factorial[k] - log_factorial[trials - k]
        log_mass = log_choose + k * math.log(p) + (trials - k) * math.log1p(-p)
        return float(numpy.exp(log_mass).sum())

    low, high = 0.0, 1.0
    if successes > 0:
        low, _ = _bracket(lambda p: mass(p, successes, trials) >= tail)
    if successes < trials:
        _, high = _bracket(lambda p: mass(p, 0, successes) <= tail)
    return low, high


def _bracket(beyond: Callable[[float], bool]) -> tuple[float, float]:
    """The last p below and the first p above the point from which `beyond` holds."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return low, high


def plain_values(record: object) -> dict[str, Any]:
    """The fields of a record of numbers and proportions, the latter by `Proportion.to_dict`."""
    return {
        name: value.to_dict() if isinstance(value, Proportion) else value
        for name, value in vars(record).items()
    }


@dataclass(frozen=True)
class Proportion:
    """A count of a total; prints as a percentage only together with its total.

    Attributes:
        count: how many of the total.
        total: the denominator.
        level: coverage of `interval`.
    """

    count: int
    total: int
    level: float = 0.95

    @property
    def value(self) -> float:
        """count / total; NaN where the total is 0."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval of the proportion."""
        return clopper_pearson(self.count, self.total, self.level)

    def __str__(self) -> str:
        """Count, total, percentage and interval, such as 3/4 75.0% [19.4-99.4%]."""
        if self.total == 0:
            return "0/0"
        low, high = self.interval
        return f"{self.count}/{self.total} {self.value:.1%} [{100 * low:.1f}-{high:.1%}]"

    def to_dict(self) -> dict[str, Any]:
        """Count, total, value (None for an empty total) and interval as plain values."""
        low, high = self.interval
        return {
            "count": self.count,
            "total": self.total,
            "value": self.value if self.total else None,
            "level": self.level,
            "low": low,
            "high": high,
        }
