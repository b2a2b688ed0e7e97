"""The nearest confident point: repeated projection of the image onto the linearised constraint.

Instead of a bisection on the radius with a search at each (spec H.2), every step takes log odds of
the label as linear around the current point, finds the point of the box nearest to the image that
is then confident enough, and goes there: Newton's method on the constraint, exact in one step for
a linear model of two classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast.config import Norm
from hcnn_fast.engine.ascent import Ball, Candidates, Forward, distance, objective, slope

OVERSHOOT = 1e-4  # log odds beyond the threshold that a step aims at, so that it arrives inside


def approach(
    forward: Forward,
    candidates: Candidates,
    ball: Ball,
    *,
    confidence: float,
    steps: int,
    norm: Norm,
) -> tuple[Tensor, Tensor]:  # [B, *image], [B]
    """Nearest point found with F_l >= confidence, and its distance (inf where there is none).

    Candidates begin at their most confident point; where none is found that point comes back.
    """
    threshold = math.log(confidence) - math.log1p(-confidence)
    shape = (-1,) + (1,) * (candidates.point.ndim - 1)
    point = candidates.point.clone()
    found = point.clone()
    found_distance = torch.full((len(point),), math.inf, dtype=point.dtype, device=point.device)
    gradient = None
    for step in range(steps + 1):
        if step < steps:
            value, gradient = slope(forward, point, candidates.label, "log_odds", 1.0, ball.backend)
        else:
            with torch.no_grad():
                value, _ = objective(
                    forward(point), candidates.label, "log_odds", 1.0, ball.backend
                )
        margin = value - threshold
        away = distance(point, ball, candidates.index, norm)
        better = (margin >= 0.5 * OVERSHOOT) & (away < found_distance)
        found = torch.where(better.view(shape), point, found)
        found_distance = torch.where(better, away, found_distance)
        if step < steps and gradient is not None:
            point = nearest_point(point, gradient, margin - OVERSHOOT, ball, candidates.index, norm)
    return found, found_distance


def nearest_point(
    point: Tensor,  # [B, *image]
    gradient: Tensor,  # [B, *image]
    margin: Tensor,  # [B]
    ball: Ball,
    index: Tensor,  # [B] int64
    norm: Norm,
) -> Tensor:  # [B, *image]
    """Point of ball and bounds nearest to the image with margin + gradient . (z - point) >= 0.

    Where no point of them reaches it, the one that comes closest to it.
    """
    x = ball.image[index].flatten(1)  # [B, D]
    g = torch.nan_to_num(gradient.flatten(1), nan=0.0, posinf=0.0, neginf=0.0)
    lower = (x - ball.radius).clamp_min(ball.bounds[0])
    upper = (x + ball.radius).clamp_max(ball.bounds[1])
    weight = g.abs()
    room = torch.where(g > 0, upper - x, x - lower)  # how far each entry may go uphill
    needed = ((g * (point.flatten(1) - x)).double().sum(1) - margin.double()).to(x.dtype)  # [B]
    if norm == "l1":
        length = _fill_steepest_first(weight, room, needed)
    else:
        rate = torch.ones_like(weight) if norm == "linf" else weight
        length = _grow_together(weight, rate, room, needed)
    moved = torch.minimum(torch.maximum(x + g.sign() * length, lower), upper)
    return moved.view_as(point)


def _grow_together(
    weight: Tensor,  # [B, D] >= 0
    rate: Tensor,  # [B, D] >= 0
    room: Tensor,  # [B, D] >= 0
    needed: Tensor,  # [B]
) -> Tensor:  # [B, D]
    """Lengths min(t * rate, room) with the smallest t at which sum(weight * length) = needed.

    The sum is concave and piecewise linear in t, so Newton's method from t = 0 climbs to it
    without passing it and ends after at most one step per bend; 64 serve all but contrived rows.
    """
    t = torch.zeros_like(needed)[:, None]  # [B, 1]
    for _ in range(64):
        length = torch.minimum(t * rate, room)
        missing = needed - (weight * length).sum(1)
        pace = torch.where(t * rate < room, weight * rate, 0.0).sum(1)
        active = (missing > 1e-6 * needed.abs()) & (pace > 0)
        if not bool(active.any()):
            break
        t = t + torch.where(active, missing / pace, 0.0)[:, None]
    stuck = (needed > 0) & ((weight * room).sum(1) <= needed)
    return torch.where(stuck[:, None] & (weight > 0), room, torch.minimum(t * rate, room))


def _fill_steepest_first(
    weight: Tensor,  # [B, D] >= 0
    room: Tensor,  # [B, D] >= 0
    needed: Tensor,  # [B]
) -> Tensor:  # [B, D]
    """Lengths of least sum with sum(weight * length) = needed: fill the steepest entries first."""
    order = weight.argsort(1, descending=True)
    sorted_weight = weight.gather(1, order)
    gain = sorted_weight * room.gather(1, order)
    before = gain.cumsum(1) - gain
    share = ((needed[:, None] - before) / gain.clamp_min(1e-30)).clamp(0.0, 1.0)
    filled = torch.where(sorted_weight > 0, share, 0.0) * room.gather(1, order)
    return torch.zeros_like(weight).scatter(1, order, filled)
