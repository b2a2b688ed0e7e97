"""NCN's second run for one candidate: projections of the image onto a linearised constraint."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.reference.operations import norm_of

OVERSHOOT = 1e-4  # log odds beyond the threshold that a step aims at


def approach(
    slope: Callable[[Tensor], tuple[Tensor, Tensor]],  # z [*image] -> log odds [], gradient
    x: Tensor,  # [*image]
    begin: Tensor,  # [*image] the most confident point found
    config: SearchConfig,
) -> Tensor:  # [*image]
    """Nearest point with F_l >= p that the iteration meets, or `begin` if it meets none.

    Each step takes logit(F_l) as linear around z and goes to the point of ball and bounds nearest
    to the image that then has logit(F_l) >= logit(p), or comes closest to it.
    """
    assert config.confidence is not None
    threshold = math.log(config.confidence) - math.log1p(-config.confidence)
    lower = (x - config.radius).clamp_min(config.bounds[0])
    upper = (x + config.radius).clamp_max(config.bounds[1])
    z, found, found_distance = begin, begin, math.inf
    for step in range(config.steps + 1):
        odds, g = slope(z)
        margin = float(odds) - threshold
        away = float(norm_of((z - x)[None], config.distance_norm)[0])
        if margin >= 0.5 * OVERSHOOT and away < found_distance:
            found, found_distance = z, away
        if step < config.steps:
            g = torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
            needed = float((g * (z - x)).double().sum()) - (margin - OVERSHOOT)
            z = project(x, g, needed, lower, upper, config.distance_norm)
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
