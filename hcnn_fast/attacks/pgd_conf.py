"""PGD-Conf of CCAT: momentum on unit steps, backtracking, balls of four norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.hill import Hill
from hcnn_fast.attacks.initial_points import (
    Draw,
    Initialisation,
    check_initialisations,
    initial_points,
)
from hcnn_fast.attacks.losses import LOSSES
from hcnn_fast.attacks.norm_balls import BallNorm, unit_step
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.inputs import Classifier

ConfObjective = Literal["cross_entropy", "confidence", "logit", "distal"]

EVERYWHERE = (-math.inf, math.inf)
L0_STEP = 250.0  # of the range of the bounds; the gradient is divided by its l1 norm


def pgd_conf(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    norm: BallNorm = "linf",
    objective: ConfObjective = "confidence",
    steps: int = 40,
    step_size: float | None = None,
    momentum: float = 0.9,
    backtracking: float | None = 1.5,
    initialisations: Sequence[Initialisation] = ("zero",),
    draw: Draw = "every",
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the model confident of a wrong class within a ball of x (Stutz et al. 2020; spec B.3).

    Each step averages unit gradients, m <- momentum * m + (1 - momentum) * g / |g|, and moves along
    m. With backtracking a run moves only where that does not lower its objective, and otherwise
    shortens its step. The published loop passes the model 2 T + 1 times forward; here the pass that
    judges a step also gives the next gradient, so the same path takes T + 1 forward and T backward.

    Of the runs of an image the one of the largest objective is kept, among those that the model
    gets wrong if there are any ("distal": among all).

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost; "distal" takes no notice of them.
        radius: radius of the ball in input units; for l0 the number of entries, rounded up.
        norm: norm of the ball: "linf", "l2", "l1" or "l0".
        objective: what rises: "cross_entropy" -log F_y, "confidence" max_k F_k over k != y,
            "logit" max_k Z_k over k != y, or "distal" max_k log F_k over all k.
        steps: gradient steps T of each run.
        step_size: length of the first step; None: 2.5 * radius / steps, for l0 250 times the range
            of the bounds.
        momentum: weight in [0, 1) of the steps before.
        backtracking: factor > 1 by which a step that lowers the objective is shortened; None: every
            step is taken.
        initialisations: where runs begin, out of "zero", "gaussian", "uniform_norm" and
            "uniform_volume"; see `initial_points`.
        draw: "every": a run from each of them; "batch": one run, from one of them that the seed
            draws for all images; "example": from one drawn for each image.
        seed: seed of the random starts and of the draw.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one run.
    """
    check_choice("norm", norm, get_args(BallNorm))
    check_choice("objective", objective, get_args(ConfObjective))
    check_choice("draw", draw, get_args(Draw))
    names = check_initialisations(initialisations, norm)
    if backtracking is not None and not 1.0 < backtracking < math.inf:
        raise ValueError(f"backtracking is {backtracking!r}, expected None or a finite factor > 1")
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        schedule="constant",
        momentum=momentum,
        seed=seed,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    if norm == "l0" and step_size is None:
        config = config.replace(step_size=L0_STEP * (config.bounds[1] - config.bounds[0]))
    with posed(model, x, y, config, objective) as problem:

        def climb(runs: Runs) -> tuple[Tensor, int]:
            start = initial_points(problem, runs, names, draw, norm)
            point = _climb(problem, runs, start, objective, norm, backtracking)
            return point, len(runs) * steps

        return solve(
            problem,
            climb,
            loss=objective,
            targets=problem.label[:, None],
            starts=len(names) if draw == "every" else 1,
            choice="best" if objective == "distal" else "best_success",
        )


def _climb(
    problem: Problem,
    runs: Runs,
    proposal: Tensor,  # [B, *image] within ball and bounds, overwritten
    objective: ConfObjective,
    norm: BallNorm,
    backtracking: float | None,
) -> Tensor:  # [B, *image]
    """Best point of every run; every decision is per run and stays on the device."""
    config = problem.config
    hill, region = Hill(problem, runs, LOSSES[objective]), problem.region(runs, norm)
    # The step itself clips to ball and bounds of l_inf; other balls are projected onto after it.
    clipped = norm == "linf"
    radius, bounds = (config.radius, config.bounds) if clipped else (math.inf, EVERYWHERE)
    uphill, average = torch.zeros_like(proposal), torch.zeros_like(proposal)
    point, value = proposal.clone(), proposal.new_full((len(runs),), -math.inf)
    # What backtracking takes never falls, so that the point is the best one.
    best, best_value = (None, None) if backtracking else (point.clone(), value.clone())
    size = torch.full_like(value, config.step_sizes()[0])  # [B]
    for _ in range(config.steps):
        at = hill.slope(proposal)
        ops.backtracking_step_(
            proposal,
            at.gradient if clipped else unit_step(at.gradient, norm),
            at.value.to(proposal.dtype),
            point=point,
            value=value,
            uphill=uphill,
            average=average,
            step_size=size,
            image=problem.image,
            image_index=runs.index,
            radius=radius,
            bounds=bounds,
            momentum=config.momentum,
            backtracking=backtracking,
            direction="sign" if clipped else "gradient",
            best=best,
            best_value=best_value,
            backend=problem.backend,
        )
        if not clipped:
            region.project_(proposal)
    if best is not None and best_value is not None:
        point, value = best, best_value
    better = hill.height(proposal) > value  # the last point needs no gradient
    return torch.where(better.view((-1,) + (1,) * (proposal.ndim - 1)), proposal, point)
