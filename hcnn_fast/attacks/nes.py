"""The query-limited attack: gradients estimated by natural evolution strategies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast.attacks.backtracking import START, Ascent, climb_from_starts
from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block, column
from hcnn_fast.attacks.checks import check_count, check_number
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import Objective
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier

RADIAL, ANGULAR = START + 1, START + 2  # random streams beside that of first points


def nes(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    steps: int = 100,
    pairs: int = 25,
    sigma: float = 0.01,
    step_size: float | None = None,
    momentum: float = 0.9,
    backtrack: float = 1.1,
    objective: Objective = "confidence",
    starts: int = 1,
    seed: int = 0,
    stop_at_success: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the model wrong about x within |z - x|_inf <= radius, along estimated gradients.

    At the iterate z, sum_i u_i (f(z + sigma u_i) - f(z - sigma u_i)) / (2 pairs sigma) over
    Gaussian directions u_i estimates the gradient of the objective f (Ilyas et al. 2018). The step
    is that of the CCAT attack: sign, momentum, backtracking. Points asked about for the estimate
    may leave the ball, and are clipped to the bounds; they are never kept.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is, never differentiated.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        steps: steps of each start; each takes 2 * pairs + 1 queries.
        pairs: antithetic pairs of an estimate.
        sigma: standard deviation of the directions, in input units.
        step_size: length of the first steps; None: radius / 10.
        momentum: factor in [0, 1) on the averaged sign of the estimates.
        backtrack: divides the step of an image where it would go down; 1: all have one length.
        objective: what rises, as for `square`.
        starts: restarts per image; the first begins at x, the others at random points of the ball.
        seed: seed of the random choices, which depend on it and on the image alone.
        stop_at_success: ask no more about an image once the model is wrong about it.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of points that pass the model at once; None: 512.

    Returns:
        Of all points reached the best: a success before a failure, then the larger objective.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.
    """
    check_count("pairs", pairs)
    check_number("sigma", sigma, 0.0, 1e6)
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        starts=starts,
        seed=seed,
        bounds=bounds,
        backend=backend,
        batch_size=batch_size,
    )
    ascent = Ascent(steps, step_size or radius / 10.0, momentum, backtrack)

    def gradient(block: Block, point: Tensor, attempt: int, step: int) -> Tensor:
        draws = range(step * pairs, (step + 1) * pairs)
        return estimate(block, point, attempt, draws, sigma, config.bounds)

    def attack(block: Block) -> None:
        climb_from_starts(block, starts, gradient, ascent)

    return run_in_blocks(
        model, x, y, config, attack, objective=objective, stop_at_success=stop_at_success
    )


def estimate(
    block: Block,
    point: Tensor,  # [n, *image]
    attempt: int,
    draws: range,
    sigma: float,
    bounds: tuple[float, float],
) -> Tensor:  # [n, *image]
    """The gradient of the objective at `point`, guessed from one antithetic pair for every draw.

    In expectation it is the gradient of the objective smoothed by a Gaussian. For a linear
    objective with gradient w that is w, and the covariance of P pairs is (|w|^2 I + w w^T) / P.
    """
    total = torch.zeros_like(point)
    y = block.images.y
    at_once = max(1, block.room // 2)
    for first in range(draws.start, draws.stop, at_once):
        some = range(first, min(first + at_once, draws.stop))
        directions = [normal(block, attempt, draw).view_as(point) for draw in some]
        asked = torch.cat([point + sigma * u for u in directions + [-u for u in directions]])
        value = block.target.values(asked.clamp(*bounds), y.repeat(2 * len(some)))
        ahead, behind = value.view(2, len(some), len(y))  # [P, n]
        for slope, direction in zip(ahead - behind, directions, strict=True):
            # summed one by one: the order of a reduction could depend on the batch
            total += column(slope, point) * direction
    return total / (2.0 * len(draws) * sigma)


def normal(block: Block, attempt: int, draw: int) -> Tensor:  # [n, D]
    """Independent standard normal numbers, by Box and Muller's transform."""
    count = block.images.x[0].numel()
    radial = block.uniform(count, attempt=attempt, stream=RADIAL, draw=draw)
    angular = block.uniform(count, attempt=attempt, stream=ANGULAR, draw=draw)
    return (-2.0 * torch.log1p(-radial)).sqrt() * torch.cos(2.0 * math.pi * angular)
