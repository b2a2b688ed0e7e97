"""Sign ascent with momentum and backtracking, for whatever gives or guesses the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hcnn_fast.attacks.black_box import Room, run_in_blocks
from hcnn_fast.attacks.block import Block, column
from hcnn_fast.attacks.checks import check_number
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import ObjectiveName
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.engine.memory import plan_batch_size

SHORTEST = 1e-20  # a step is not halved for ever
START = 0  # the random stream of first points

Gradient = Callable[[Block, Tensor, int, int], Tensor]  # block, point, attempt, step


@dataclass(frozen=True)
class Ascent:
    """How the point climbs.

    Attributes:
        steps: steps of a start.
        step_size: length of the first step, in input units.
        momentum: factor in [0, 1) on the averaged sign of the gradient.
        backtrack: divides the step of an image, which is then not taken, where it would go down;
            1 keeps all lengths.
    """

    steps: int
    step_size: float
    momentum: float
    backtrack: float

    def __post_init__(self) -> None:
        check_number("backtrack", self.backtrack, 1.0 - 2**-53, 1e6)


def climb(block: Block, attempt: int, point: Tensor, gradient: Gradient, ascent: Ascent) -> None:
    """Climb from a point: m <- mu m + (1 - mu) sign(g), then a step along m if it does not go down.

    The momentum is kept even where a step is not taken (Stutz et al. 2020, attack of CCAT).
    """
    value = block.judge(point, attempt)  # [n]
    average = torch.zeros_like(point)  # [n, *image]
    length = torch.full_like(value, ascent.step_size)  # [n]
    for step in range(ascent.steps):
        rows = block.drop_successes()
        if rows is not None:
            point, value, average, length = (t[rows] for t in (point, value, average, length))
        if not len(block):
            return
        slope = gradient(block, point, attempt, step).sign()  # 0 where it is not a number
        average = ascent.momentum * average + (1.0 - ascent.momentum) * slope
        moved = block.clip(point + column(length, point) * average)
        reached = block.judge(moved, attempt)
        rises = reached >= value
        point = torch.where(column(rises, point), moved, point)
        value = torch.where(rises, reached, value)
        shorter = (length / ascent.backtrack).clamp_min(SHORTEST)
        length = torch.where(rises, length, shorter)


def climb_from_starts(block: Block, starts: int, gradient: Gradient, ascent: Ascent) -> None:
    """Climb from the image itself, then from random points of where it may be moved to."""
    for attempt in range(starts):
        block.drop_successes()
        if not len(block):
            return
        point = block.images.x
        if attempt:
            point = block.uniform_point(attempt=attempt, stream=START, draw=0)
        climb(block, attempt, point, gradient, ascent)


def climb_by_gradient(
    model: Classifier,
    x: Tensor,  # [N, *image]
    y: Tensor | None,  # [N]; None: no class is right
    config: SearchConfig,
    ascent: Ascent,
    *,
    objective: ObjectiveName,
    room: Room | None = None,
) -> AttackResult:
    """Every start of every image, along the true gradient of the objective."""

    def attack(block: Block) -> None:
        climb_from_starts(block, config.starts, _gradient, ascent)

    result = run_in_blocks(
        model,
        x,
        y,
        config,
        attack,
        objective=objective,
        room=room,
        batch_size=lambda target, images: plan_batch_size(target.logits, images),
    )
    return replace(result, gradient_steps=len(x) * config.starts * ascent.steps)


def _gradient(block: Block, point: Tensor, attempt: int, step: int) -> Tensor:  # [n, *image]
    with torch.enable_grad():
        z = point.detach().requires_grad_()
        value = block.target.values(z, block.images.y).sum()
        if not value.requires_grad:
            raise ValueError("model returned logits without a gradient, expected one in the images")
        (slope,) = torch.autograd.grad(value, z)
    return slope
