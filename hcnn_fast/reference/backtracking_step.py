"""A step of ascent with momentum and backtracking, as the formula that defines it."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST_STEP = 1e-20  # steps are not shortened for ever


def backtracking_step_(
    proposal: Tensor,  # [B, *image] float32 or float64, replaced by the next one
    gradient: Tensor,  # [B, *image] at the proposal
    reached: Tensor,  # [B] objective at the proposal
    *,
    point: Tensor,  # [B, *image] taken so far
    value: Tensor,  # [B] objective at `point`; -inf before the first proposal
    uphill: Tensor,  # [B, *image] direction of the gradient at `point`; 0 before the first
    average: Tensor,  # [B, *image] of the directions so far; 0 before the first
    step_size: Tensor,  # [B]
    image: Tensor,  # [N, *image]
    image_index: Tensor,  # [B] int64
    radius: float,
    bounds: tuple[float, float],
    momentum: float,
    backtracking: float | None,
    direction: str = "sign",
    best: Tensor | None = None,  # [B, *image]
    best_value: Tensor | None = None,  # [B]
) -> None:
    """One step of ascent with momentum and backtracking (Stutz et al. 2020; spec B.3).

    In this order: take the proposal, its value and the direction of its gradient where that does
    not lower the objective, and else divide the step by `backtracking`; keep what was taken as
    `best` where its value is strictly larger than best_value; average
    m <- momentum * m + (1 - momentum) * uphill; and propose point + step_size * m, clipped to the
    ball and to the bounds. `backtracking` None takes every proposal. The direction is the "sign" of
    the gradient, or the "gradient" as it is given. A move that is not a number is none.
    """
    shape = (-1,) + (1,) * (proposal.ndim - 1)
    biggest = torch.finfo(proposal.dtype).max
    ahead = torch.nan_to_num(gradient, nan=0.0, posinf=biggest, neginf=-biggest)
    if direction == "sign":
        ahead = ahead.sign()
    taken = torch.ones_like(value, dtype=torch.bool) if backtracking is None else reached >= value
    if best is not None and best_value is not None:
        better = taken & (reached > best_value)
        best.copy_(torch.where(better.view(shape), proposal, best))
        best_value.copy_(torch.where(better, reached, best_value))
    point.copy_(torch.where(taken.view(shape), proposal, point))
    uphill.copy_(torch.where(taken.view(shape), ahead, uphill))
    value.copy_(torch.where(taken, reached, value))
    if backtracking is not None:
        divisor = torch.full_like(step_size, backtracking)
        shorter = (step_size / divisor).clamp_min(SHORTEST_STEP)
        step_size.copy_(torch.where(taken, step_size, shorter))
    average.copy_(momentum * average + (1.0 - momentum) * uphill)
    move = step_size.view(shape) * average
    moved = point + torch.where(move.isnan(), 0.0, move)
    x = image[image_index]  # [B, *image]
    lower, upper = (x - radius).clamp_min(bounds[0]), (x + radius).clamp_max(bounds[1])
    proposal.copy_(torch.minimum(torch.maximum(moved, lower), upper))
