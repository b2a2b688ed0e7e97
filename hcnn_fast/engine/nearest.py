"""The nearest confident point: repeated projection of the image onto the linearised constraint.

Instead of a bisection on the radius with a search at each (spec H.2), every step takes log odds of
the label as linear around a point and finds the point of the box nearest to the image that is then
confident enough: Newton's method on the constraint, exact in one step for a linear model of two
classes. Where the constraint bends, full steps would circle. A merit, the distance plus a penalty
for missing confidence, decides whether a step is kept; one that is not is halved. The last steps
go back from the best point outside towards the nearest one inside, by the secant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast.config import Norm
from hcnn_fast.engine.ball import Ball, Candidates, distance
from hcnn_fast.engine.climb import Ascent
from hcnn_fast.engine.slopes import Forward, objective, slope

OVERSHOOT = 1e-4  # log odds beyond the threshold that a step aims at, so that it arrives inside
PENALTY = 3.0  # on missing log odds, in units of their price: distance paid per unit of log odds
SECANT_STEPS = 3


def approach(
    forward: Forward,
    candidates: Candidates,
    ball: Ball,
    *,
    confidence: float,
    steps: int,
    norm: Norm,
) -> Ascent:
    """Nearest point found with F_l >= confidence; its value is -distance (-inf: there is none).

    Candidates begin at their most confident point; where none is found that point comes back.
    """
    threshold = math.log(confidence) - math.log1p(-confidence)
    shape = (-1,) + (1,) * (candidates.point.ndim - 1)
    index, label = candidates.index, candidates.label
    point = candidates.point.clone()
    found, held, aim = point, point, point
    found_distance = torch.full((len(point),), math.inf, dtype=point.dtype, device=point.device)
    merit, stride = found_distance, torch.ones_like(found_distance)
    found_margin = held_margin = torch.zeros_like(found_distance)
    found_logits = point.new_empty(0)
    for step in range(steps):
        at = slope(forward, point, label, "log_odds", 1.0, ball.backend)
        margin = at.value - threshold
        away = distance(point, ball, index, norm)
        better = (margin >= 0.5 * OVERSHOOT) & (away < found_distance)
        found_logits = torch.where(better[:, None], at.logits, found_logits) if step else at.logits
        found = torch.where(better.view(shape), point, found)
        found_distance = torch.where(better, away, found_distance)
        found_margin = torch.where(better, margin, found_margin) if step else margin

        needed = needed_from_image(point, at.gradient, margin - OVERSHOOT, ball, index)
        target = project(at.gradient, needed, ball, index, norm)
        price = torch.where(needed > 0, distance(target, ball, index, norm) / needed, 0.0)
        new_merit = away + PENALTY * price * (0.5 * OVERSHOOT - margin).clamp_min(0.0)
        kept = new_merit < merit
        held = torch.where(kept.view(shape), point, held)
        held_margin = torch.where(kept, margin, held_margin)
        aim = torch.where(kept.view(shape), target, aim)
        merit = torch.where(kept, new_merit, merit)
        stride = torch.where(kept, (2.0 * stride).clamp_max(1.0), 0.5 * stride)
        point = held + stride.view(shape) * (aim - held)
        if step >= steps - SECANT_STEPS:
            inside = (found_margin - OVERSHOOT).clamp_min(0.0)
            outside = (held_margin < 0.5 * OVERSHOOT) & (found_margin > held_margin)
            share = (inside / (found_margin - held_margin)).clamp(0.0, 1.0)
            between = found + share.view(shape) * (held - found)
            point = torch.where(outside.view(shape), between, point)
    with torch.no_grad():
        last = forward(point)
    value, _ = objective(last, label, "log_odds", 1.0, ball.backend)
    away = distance(point, ball, index, norm)
    better = (value - threshold >= 0.5 * OVERSHOOT) & (away < found_distance)
    passes = len(point) * steps
    return Ascent(
        point=torch.where(better.view(shape), point, found),
        value=-torch.where(better, away, found_distance),
        logits=torch.where(better[:, None], last, found_logits),
        steps=torch.full_like(index, steps),
        forwards=passes + len(point),
        backwards=passes,
    )


def project(
    gradient: Tensor,  # [B, *image]
    needed: Tensor,  # [B]
    ball: Ball,
    index: Tensor,  # [B] int64
    norm: Norm,
) -> Tensor:  # [B, *image]
    """Point of ball and bounds nearest to the image x with gradient . (z - x) >= needed.

    Where no point of them reaches it, the one that comes closest to it.
    """
    x = ball.image[index].flatten(1)  # [B, D]
    g = _finite_rows(gradient)
    lower = (x - ball.radius).clamp_min(ball.bounds[0])
    upper = (x + ball.radius).clamp_max(ball.bounds[1])
    weight = g.abs()
    room = torch.where(g > 0, upper - x, x - lower)  # how far each entry may go uphill
    if norm == "l1":
        length = _fill_steepest_first(weight, room, needed)
    else:
        rate = torch.ones_like(weight) if norm == "linf" else weight
        length = _grow_together(weight, rate, room, needed)
    moved = torch.minimum(torch.maximum(x + g.sign() * length, lower), upper)
    return moved.view_as(gradient)


def needed_from_image(
    point: Tensor,  # [B, *image]
    gradient: Tensor,  # [B, *image]
    margin: Tensor,  # [B]
    ball: Ball,
    index: Tensor,  # [B] int64
) -> Tensor:  # [B]
    """What gradient . (z - image) must reach so that margin + gradient . (z - point) >= 0."""
    way = (point - ball.image[index]).flatten(1)  # [B, D]
    gained = (_finite_rows(gradient) * way).double().sum(1)
    return (gained - margin.double()).to(point.dtype)


def _finite_rows(gradient: Tensor) -> Tensor:  # [B, *image] -> [B, D]
    return torch.nan_to_num(gradient.flatten(1), nan=0.0, posinf=0.0, neginf=0.0)


def _grow_together(
    weight: Tensor,  # [B, D] >= 0
    rate: Tensor,  # [B, D] >= 0
    room: Tensor,  # [B, D] >= 0
    needed: Tensor,  # [B]
) -> Tensor:  # [B, D]
    """Lengths min(t * rate, room) with the smallest t at which sum(weight * length) = needed.

    The sum is piecewise linear in t and bends where an entry has used up its room: the bends in
    order, with sums from either end, tell between which two of them it gets there.
    """
    stop, order = torch.where(rate > 0, room / rate, 0.0).double().sort(1)
    stopped = (weight * room).double().gather(1, order)  # what an entry gives in all
    pace = (weight * rate).double().gather(1, order)
    before = stopped.cumsum(1) - stopped  # of the entries that have stopped at each bend
    ahead = pace.flip(1).cumsum(1).flip(1)  # of those that have not
    reached = before + stop * ahead
    bend = (reached < needed[:, None]).sum(1, keepdim=True)  # the first that suffices
    enough = bend < reached.shape[1]
    bend = bend.clamp_max(reached.shape[1] - 1)
    missing = (needed[:, None] - before.gather(1, bend)).clamp_min(0.0)
    slope = ahead.gather(1, bend)
    time = torch.where(slope > 0, missing / slope, 0.0).to(weight.dtype)  # [B, 1]
    everything = torch.where(weight > 0, room, 0.0)
    return torch.where(enough, torch.minimum(time * rate, room), everything)


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
