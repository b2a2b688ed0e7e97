"""Balls of l_inf, l2, l1 and l0 cut by the bounds: exact projections, and unit steps uphill.

Published attacks clip to the bounds after they project onto the ball. That is feasible, for 0 lies
in the range that the bounds leave every entry, but it is not the nearest point of the intersection:
it gives radius away. The projections here are onto ball and bounds at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

BallNorm = Literal["linf", "l2", "l1", "l0"]

# Projections stop short of the radius by the rounding of their own sums, so that a second one finds
# the point inside and leaves it.
SLACK = 2.0**-45


def size_of(
    displacement: Tensor,  # [B, *image]
    norm: BallNorm,
) -> Tensor:  # [B] float64
    """Norm of each displacement, in float64; l0 counts the entries that are not 0."""
    rows = displacement.flatten(1).double().abs()
    if norm == "l0":
        return (rows > 0).sum(1).double()
    if norm == "linf":
        return rows.amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
    return rows.sum(1) if norm == "l1" else torch.linalg.vector_norm(rows, dim=1)


def unit_step(
    gradient: Tensor,  # [B, *image]
    norm: BallNorm,
) -> Tensor:  # [B, *image]
    """The step of each row uphill: sign(g), g / |g|_2, or g / |g|_1 for l1 and l0 (spec B.8).

    A row whose gradient is 0 or holds NaN in every entry does not move; NaN entries count as 0.
    """
    largest = torch.finfo(gradient.dtype).max
    if norm == "linf":
        return gradient.sign()  # 0 of NaN
    g = torch.nan_to_num(gradient, nan=0.0, posinf=largest, neginf=-largest)
    rows = g.flatten(1)
    # Divided by the largest entry first: squares of tiny or huge entries would not be numbers.
    scale = rows.abs().amax(1, keepdim=True)
    rows = torch.where(scale > 0, rows / scale, 0.0)
    length = torch.linalg.vector_norm(rows, ord=2 if norm == "l2" else 1, dim=1, keepdim=True)
    return torch.where(length > 0, rows / length, 0.0).view_as(gradient)


class Region:
    """Ball and bounds around each of B images, ready to be projected onto.

    Args:
        image: [B, *image] centre of each ball, within bounds.
        radius: radius of the ball in input units, for l0 a number of entries, rounded up. Every
            channel counts.
        norm: norm of the ball.
        bounds: smallest and largest value that an input may take.
    """

    def __init__(
        self,
        image: Tensor,  # [B, *image]
        *,
        radius: float,
        norm: BallNorm,
        bounds: tuple[float, float],
    ) -> None:
        self.image, self.radius, self.norm, self.bounds = image, radius, norm, bounds

    def project_(
        self,
        point: Tensor,  # [B, *image] finite, written
    ) -> Tensor:  # [B, *image]
        """Move each point to the nearest, in l2, of ball and bounds; one in both stays.

        For l2 and l1 the result lies inside also after rounding: it is rounded towards the image.
        """
        if self.norm == "linf":
            return torch.clamp(point, *self._ends, out=point)
        centre = self.image.flatten(1).double()  # [B, D]
        away = point.flatten(1).double() - centre  # [B, D]
        size = away.abs()
        low, high = self.bounds
        room = torch.where(away < 0, centre - low, high - centre).clamp_min(0.0)  # [B, D]
        clipped = torch.minimum(size, room)  # [B, D]
        kept = _LARGEST_KEPT[self.norm](size, clipped, self.radius)  # [B, D]
        limit = float(math.ceil(self.radius)) if self.norm == "l0" else self.radius
        inside = (size <= room).all(1) & (size_of(away, self.norm) <= limit)  # [B]
        placed = _towards(self.image, torch.copysign(kept, away).view_as(point)).clamp_(low, high)
        shape = (-1,) + (1,) * (point.ndim - 1)
        return torch.where(inside.view(shape), point, placed, out=point)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:  # [B, *image] both
        """Smallest and largest values of ball and bounds of l_inf."""
        low, high = self.bounds
        return (self.image - self.radius).clamp_min(low), (self.image + self.radius).clamp_max(high)


def _towards(
    image: Tensor,  # [B, *image]
    displacement: Tensor,  # [B, *image] float64
) -> Tensor:  # [B, *image]
    """The image displaced by at most this, rounded to its dtype towards the image."""
    placed = (image.double() + displacement).to(image.dtype)
    over = (placed.double() - image.double()).abs() > displacement.abs()
    return torch.where(over, torch.nextafter(placed, image), placed)


def _kept_l2(
    size: Tensor,  # [B, D] float64 magnitudes
    clipped: Tensor,  # [B, D] magnitudes that the bounds leave
    radius: float,
) -> Tensor:  # [B, D]
    """min(s * size, clipped) with the largest factor s <= 1 whose norm is at most the radius.

    The squared norm is a quadratic in s between the factors where entries meet their bound: sorted,
    sums over those that have met it and over the rest give s in closed form.
    """
    meets = torch.where(size > 0, clipped / size, 1.0)  # [B, D] factor at which the bound is met
    meets, order = meets.sort(dim=1)
    square = size.square().gather(1, order)
    met = clipped.square().gather(1, order).cumsum(1)  # [B, D] of entries up to here
    rest = square.flip(1).cumsum(1).flip(1) - square  # [B, D] of entries after here
    count = (met + meets.square() * rest < radius**2).sum(1, keepdim=True)  # [B, 1] at bound
    last = (count - 1).clamp_min(0)
    bound = torch.where(count > 0, met.gather(1, last), 0.0)
    free = torch.where(count > 0, rest.gather(1, last), square.sum(1, keepdim=True))
    factor = ((radius**2 - bound).clamp_min(0.0) / free).sqrt()
    factor = torch.where(free > 0, factor, 1.0).clamp_max(1.0)
    return _shortened(torch.minimum(factor * size, clipped), radius, 2)


def _kept_l1(
    size: Tensor,  # [B, D] float64 magnitudes
    clipped: Tensor,  # [B, D] magnitudes that the bounds leave
    radius: float,
) -> Tensor:  # [B, D]
    """min(max(size - t, 0), clipped) with the least t >= 0 whose sum is at most the radius.

    As t falls, an entry begins to count at its size and stops at the t where it meets its bound:
    between these 2D sorted values the sum is linear in t.
    """
    ends = torch.cat([size, size - clipped], 1)  # [B, 2D]
    change = torch.ones_like(ends)
    change[:, size.shape[1] :] = -1.0
    ends, order = ends.sort(dim=1, descending=True)
    active = change.gather(1, order).cumsum(1)  # [B, 2D] entries that grow after this value
    gained = active[:, :-1] * (ends[:, :-1] - ends[:, 1:])
    total = torch.cat([torch.zeros_like(ends[:, :1]), gained.cumsum(1)], 1)  # [B, 2D] sum there
    last = ((total < radius).sum(1, keepdim=True) - 1).clamp_min(0)
    missing = radius - total.gather(1, last)
    threshold = ends.gather(1, last) - missing / active.gather(1, last).clamp_min(1.0)
    threshold = torch.where(clipped.sum(1, keepdim=True) <= radius, 0.0, threshold.clamp_min(0.0))
    return _shortened(torch.minimum((size - threshold).clamp_min(0.0), clipped), radius, 1)


def _kept_l0(
    size: Tensor,  # [B, D] float64 magnitudes
    clipped: Tensor,  # [B, D] magnitudes that the bounds leave
    radius: float,
) -> Tensor:  # [B, D]
    """The ceil(radius) entries whose loss would cost most, clipped; of equals the first."""
    saved = clipped * (2.0 * size - clipped)  # size^2 - (size - clipped)^2
    order = saved.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(clipped)
    first = order[:, : math.ceil(radius)]
    return kept.scatter(1, first, clipped.gather(1, first))


def _shortened(kept: Tensor, radius: float, order: int) -> Tensor:  # [B, D]
    """The rows scaled down by the little that rounding made them too long."""
    length = torch.linalg.vector_norm(kept, ord=order, dim=1, keepdim=True)
    factor = radius * (1.0 - SLACK) / length
    return kept * torch.where(length > 0, factor, 1.0).clamp_max(1.0)


_LARGEST_KEPT: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "l2": _kept_l2,
    "l1": _kept_l1,
    "l0": _kept_l0,
}
