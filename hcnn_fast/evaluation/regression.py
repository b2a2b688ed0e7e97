"""Straight lines through measured models, and means of few numbers, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

RESAMPLES = 2000

Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: of all values.
        low, high: percentiles of the bootstrap; NaN where it says nothing.
        count: values that it is of.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Value and interval, such as 0.83 [0.71, 0.90]."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def to_dict(self) -> dict[str, Any]:
        """All fields; None for NaN, which JSON does not have."""
        return {k: None if v != v else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Regression:
    """The least-squares line y = slope * x + intercept, and how well it fits.

    Attributes:
        slope, correlation: with their intervals; NaN where all x are equal, and the correlation
            also where all y are.
        intercept: at x = 0.
    """

    slope: Estimate
    correlation: Estimate
    intercept: float


def mean(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Estimate:
    """The mean, and the percentile interval of means of resampled values (Efron 1979)."""
    return _bootstrap(
        numpy.asarray(values, numpy.float64)[:, None],
        lambda rows: rows[..., 0].mean(-1),
        level,
        seed,
    )


def median(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Estimate:
    """The median, and the percentile interval of medians of resampled values."""
    return _bootstrap(
        numpy.asarray(values, numpy.float64)[:, None],
        lambda rows: numpy.median(rows[..., 0], axis=-1),
        level,
        seed,
    )


def regression(
    x: Sequence[float],
    y: Sequence[float],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Regression:
    """Fit a line; intervals are percentiles over resampled pairs (x, y).

    Args:
        x: three numbers or more.
        y: as many.
        level: coverage of the intervals.
        seed: of the resamples.

    Raises:
        ValueError: fewer than three pairs, or another number of x than of y.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"x and y have {len(x)} and {len(y)} numbers, expected as many, 3 or more")
    pairs = numpy.stack([numpy.asarray(x, numpy.float64), numpy.asarray(y, numpy.float64)], 1)
    slope = _bootstrap(pairs, _slope, level, seed)
    return Regression(
        slope=slope,
        correlation=_bootstrap(pairs, _correlation, level, seed),
        intercept=float(pairs[:, 1].mean() - slope.value * pairs[:, 0].mean()),
    )


def _bootstrap(
    rows: Array,  # [n, columns]
    statistic: Callable[[Array], Array],  # [..., n, columns] -> [...]
    level: float,
    seed: int,
) -> Estimate:
    """A statistic of rows, and the percentiles of the same of resampled rows, NaN left out."""
    if not len(rows):
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(statistic(rows))
    drawn = numpy.random.default_rng(seed).integers(len(rows), size=(RESAMPLES, len(rows)))
    found = numpy.concatenate([statistic(rows[part]) for part in numpy.array_split(drawn, 50)])
    found = found[~numpy.isnan(found)]
    if not len(found) or len(rows) < 2:  # one value says nothing about its spread
        return Estimate(value, math.nan, math.nan, len(rows))
    tail = 50.0 * (1.0 - level)
    low, high = numpy.percentile(found, [tail, 100.0 - tail])
    return Estimate(value, float(low), float(high), len(rows))


def _moments(pairs: Array) -> tuple[Array, Array, Array]:
    """Sums of squares of x and y, and of their products, about the means; 0 if but rounding."""
    away = pairs - pairs.mean(-2, keepdims=True)
    x, y = away[..., 0], away[..., 1]
    scale = 1e-24 * pairs.shape[-2] * (pairs**2).mean(-2)
    xx, yy = (x * x).sum(-1), (y * y).sum(-1)
    return (
        numpy.where(xx > scale[..., 0], xx, 0.0),
        numpy.where(yy > scale[..., 1], yy, 0.0),
        (x * y).sum(-1),
    )


def _slope(pairs: Array) -> Array:
    xx, _, xy = _moments(pairs)
    return _quotient(xy, xx)


def _correlation(pairs: Array) -> Array:
    xx, yy, xy = _moments(pairs)
    return _quotient(xy, numpy.sqrt(xx * yy))


def _quotient(above: Array, below: Array) -> Array:
    """above / below, NaN where that is 0."""
    nothing = numpy.full(numpy.shape(below), numpy.nan)
    return numpy.asarray(numpy.divide(above, below, out=nothing, where=below > 0))
