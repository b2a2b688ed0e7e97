"""NCN's second run for one candidate: projections of the image onto a linearised constraint."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.reference.operations import norm_of

OVERSHOOT = 1e-4  # log odds beyond the threshold that a step aims at
PENALTY = 3.0  # on missing log odds, in units of their price: distance paid per unit of log odds
SECANT_STEPS = 3


def approach(
    slope: Callable[[Tensor], tuple[Tensor, Tensor]],  # z [*image] -> log odds [], gradient
    x: Tensor,  # [*image]
    begin: Tensor,  # [*image] the most confident point found
    config: SearchConfig,
) -> Tensor:  # [*image]
    """Nearest point with F_l >= p that the iteration meets, or `begin` if it meets none.

    Each step takes logit(F_l) as linear around z and aims at the point of ball and bounds nearest
    to the image that then has logit(F_l) >= logit(p), or comes closest to it. Where z has a better
    merit (distance + penalty for what is missing) than the point held so far, it is held instead,
    and the next z is its aim; where not, the step from the held point is halved. The last steps
    try the secant between the nearest confident point and the held one, if that lies outside.
    """
    assert config.confidence is not None
    threshold = math.log(config.confidence) - math.log1p(-config.confidence)
    norm = config.distance_norm
    lower = (x - config.radius).clamp_min(config.bounds[0])
    upper = (x + config.radius).clamp_max(config.bounds[1])

    def away(z: Tensor) -> float:
        return float(norm_of((z - x)[None], norm)[0])

    z = found = held = aim = begin
    found_distance = merit = math.inf
    found_margin = held_margin = 0.0
    stride = 1.0
    for step in range(config.steps):
        odds, g = slope(z)
        margin = float(odds) - threshold
        better = margin >= 0.5 * OVERSHOOT and away(z) < found_distance
        if better:
            found, found_distance = z, away(z)
        if better or step == 0:
            found_margin = margin
        g = torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
        needed = float((g * (z - x)).double().sum()) - (margin - OVERSHOOT)
        target = project(x, g, needed, lower, upper, norm)
        price = away(target) / needed if needed > 0.0 else 0.0
        new_merit = away(z) + PENALTY * price * max(0.5 * OVERSHOOT - margin, 0.0)
        if new_merit < merit:
            held, held_margin, aim, merit = z, margin, target, new_merit
            stride = min(2.0 * stride, 1.0)
        else:
            stride = 0.5 * stride
        z = held + stride * (aim - held)
        secant = step >= config.steps - SECANT_STEPS
        if secant and held_margin < 0.5 * OVERSHOOT and found_margin > held_margin:
            share = max(found_margin - OVERSHOOT, 0.0) / (found_margin - held_margin)
            z = found + min(share, 1.0) * (held - found)
    odds, _ = slope(z)
    if float(odds) - threshold >= 0.5 * OVERSHOOT and away(z) < found_distance:
        found = z
    return found


def project(
    x: Tensor,  # [*image]
    g: Tensor,  # [*image]
    needed: float,
    lower: Tensor,  # [*image]
    upper: Tensor,  # [*image]
    norm: str,
) -> Tensor:  # [*image]
    """argmin |z - x| subject to g . (z - x) >= needed and lower <= z <= upper, by its bends.

    Entry i grows uphill at a rate (1 for linf, |g_i| for l2) until its room is used up; the sum
    g . (z - x) is piecewise linear in the common time t with a bend where an entry stops, so t is
    found by going through the bends in order. For l1 the steepest entries are filled one by one.
    """
    weight = g.abs().double().flatten()
    room = torch.where(g > 0, upper - x, x - lower).double().flatten()
    if needed <= 0.0:
        return x
    length = torch.where(weight > 0, room, 0.0)  # all there is, if even that does not suffice
    if float((weight * length).sum()) > needed:
        if norm == "l1":
            missing = needed
            length = torch.zeros_like(room)
            for i in weight.argsort(descending=True).tolist():
                length[i] = min(float(room[i]), missing / float(weight[i]))
                missing -= float(weight[i] * length[i])
                if missing <= 0.0:
                    break
        else:
            rate = torch.ones_like(weight) if norm == "linf" else weight
            time = _time_to_reach(weight, rate, room, needed)
            length = torch.minimum(time * rate, room)
    moved = x + g.sign() * length.view_as(x).to(x.dtype)
    return torch.minimum(torch.maximum(moved, lower), upper)


def _time_to_reach(weight: Tensor, rate: Tensor, room: Tensor, needed: float) -> float:
    """Smallest t with sum(weight * min(t * rate, room)) = needed, all vectors [D] float64."""
    stops = torch.where(rate > 0, room / rate, 0.0)
    time, gained, pace = 0.0, 0.0, float((weight * rate).sum())
    for i in stops.argsort().tolist():
        gain = pace * (float(stops[i]) - time)
        if gained + gain >= needed:
            break
        time, gained = float(stops[i]), gained + gain
        pace -= float(weight[i] * rate[i])
    return time + (needed - gained) / pace if pace > 0.0 else time
