"""Projected gradient ascent of many candidates at once: the loop under search and attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import ops, reference
from hcnn_fast.config import Norm

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Ball:
    """The set searched around each image, and the operations' implementation.

    Attributes:
        image: [N, *image] the centres.
        radius: l_inf radius, in input units.
        bounds: lowest and highest input value.
        backend: a backend name that `backends.resolve` returned.
    """

    image: Tensor  # [N, *image]
    radius: float
    bounds: tuple[float, float]
    backend: str


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Runs that start together: candidate b climbs for label[b] in the ball of image index[b]."""

    index: Tensor  # [B] int64
    label: Tensor  # [B] int64
    point: Tensor  # [B, *image]

    def __len__(self) -> int:
        return len(self.index)

    def part(self, begin: int, end: int) -> Candidates:
        """Candidates begin to end, sharing memory."""
        rows = slice(begin, end)
        return Candidates(index=self.index[rows], label=self.label[rows], point=self.point[rows])


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What is climbed and how.

    Attributes:
        kind: an objective of `ops.label_objective`.
        order: order of the entropy.
        step_sizes: length of every step, in input units.
        momentum: factor on the accumulated gradient.
        distance_weight: weight of |z - x| in the moves and in the score of a point.
        norm: norm of the distance.
        downhill: go down the objective instead of up; the score is then its negative.
    """

    kind: str
    order: float = 1.0
    step_sizes: tuple[float, ...]
    momentum: float = 0.0
    distance_weight: float = 0.0
    norm: Norm = "linf"
    downhill: bool = False


def slope(
    forward: Forward,
    point: Tensor,  # [B, *image]
    label: Tensor,  # [B]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, *image]
    """Objective at each point and its gradient in the input: no weight gradient is computed.

    Raises:
        ValueError: the logits do not depend on the point by differentiable operations.
    """
    leaf = point.detach().requires_grad_()
    logits = forward(leaf)
    if not logits.requires_grad:
        raise ValueError(
            "model returned logits without a gradient in x, expected differentiable operations "
            "(no torch.no_grad, detach or constant output)"
        )
    value, seed = objective(logits, label, kind, order, backend)
    (gradient,) = torch.autograd.grad(logits, leaf, seed)
    return value, match_layout(gradient, point)


def objective(
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, C]
    """Objective of each row of logits and its gradient in them."""
    z = logits.detach().contiguous()
    value_dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    value = torch.empty(len(z), dtype=value_dtype, device=z.device)
    gradient = torch.empty_like(z)
    ops.label_objective(
        z, label, kind, order=order, value=value, gradient=gradient, backend=backend
    )
    return value, gradient


def match_layout(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the strides of `like`: itself where it has them, else a copy."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_strided(
        like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def ascend(
    forward: Forward,
    candidates: Candidates,
    ball: Ball,
    climb: Climb,
) -> tuple[Tensor, Tensor]:  # [B, *image], [B]
    """Best point of every run and its score, value - distance_weight * |z - x|.

    T steps take T + 1 forward and T backward passes per candidate (spec H.1).
    """
    point = candidates.point.clone()
    rows = len(candidates)
    best = point.clone()
    best_value = torch.full((rows,), -math.inf, dtype=point.dtype, device=point.device)
    buffer = torch.zeros_like(point) if climb.momentum > 0.0 else None
    away = distance(point, ball, candidates.index, climb.norm) if climb.distance_weight else None
    step_size = torch.empty_like(best_value)
    penalty = torch.empty_like(best_value) if climb.distance_weight else None
    gathered = 0.0  # sum of the weights of the gradients in the momentum buffer
    for size in climb.step_sizes:
        value, gradient = slope(
            forward, point, candidates.label, climb.kind, climb.order, ball.backend
        )
        gathered = climb.momentum * gathered + 1.0
        if penalty is not None:
            penalty.fill_(climb.distance_weight * gathered)
        ops.pgd_step_(
            point,
            gradient,
            ball.image,
            candidates.index,
            step_size.fill_(-size if climb.downhill else size),
            radius=ball.radius,
            bounds=ball.bounds,
            momentum_buffer=buffer,
            momentum=climb.momentum,
            penalty=penalty,
            norm=climb.norm,
            value=-value if climb.downhill else value,
            distance_weight=climb.distance_weight,
            best=best,
            best_value=best_value,
            distance=away,
            backend=ball.backend,
        )
    with torch.no_grad():
        logits = forward(point)
    score, _ = objective(logits, candidates.label, climb.kind, climb.order, ball.backend)
    score = -score if climb.downhill else score
    if away is not None:
        score = score - climb.distance_weight * away
    better = score > best_value
    best = torch.where(better.view((-1,) + (1,) * (best.ndim - 1)), point, best)
    return best, torch.where(better, score, best_value)


def distance(
    point: Tensor,  # [B, *image]
    ball: Ball,
    index: Tensor,  # [B] int64
    norm: Norm,
) -> Tensor:  # [B]
    """|z - x| of every candidate."""
    return reference.norm_of(point - ball.image[index], norm)
