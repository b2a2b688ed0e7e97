"""How much more confident a point of the ball could be: what `tolerance` stops a run by.

To first order, logit(F_l) rises within the ball by at most the reach, max over z of
gradient . (z - point), which is Frank and Wolfe's duality gap. Where logit(F_l) is concave in the
input, as it is for a linear classifier, that is a bound on the best point of the whole ball. On a
network it is an estimate, and the factors below are choices; what they lose on the shipped network
is in bench/results/equal-objective-cpu.json.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.engine.ball import Ball

SAFETY = 7.0  # factor on the reach before a label is given up
UNSEEN = 5.0  # times the likeliest labels' reach is assumed of a label not looked at


def reach(
    point: Tensor,  # [B, *image]
    gradient: Tensor,  # [B, *image]
    ball: Ball,
    index: Tensor,  # [B] int64
) -> Tensor:  # [B]
    """Largest gradient . (z - point) over the z of ball and bounds."""
    within = point.new_empty(len(point))
    ops.pgd_step_(
        point.clone(),
        gradient,
        ball.image,
        index,
        torch.zeros_like(within),  # steps of no length
        radius=ball.radius,
        bounds=ball.bounds,
        reach=within,
        backend=ball.backend,
    )
    return within


def attainable(
    log_probability: Tensor,  # [B] log F_l at the point
    within_reach: Tensor,  # [B] reach of log F_l
    safety: float = 1.0,
) -> Tensor:  # [B]
    """F_l where logit(F_l) rises by `safety` times what is within its reach."""
    rest = -torch.expm1(log_probability)  # 1 - F_l, and d log F_l = (1 - F_l) d logit(F_l)
    odds = log_probability - rest.log() + safety * within_reach / rest
    return torch.where(rest > 0.0, torch.sigmoid(odds), 1.0)
