"""Auto-PGD with a target: the step halves by itself, each likely wrong class in turn."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.hill import Hill
from hcnn_fast.attacks.initial_points import initial_points
from hcnn_fast.attacks.losses import LOSSES, LossName
from hcnn_fast.attacks.norm_balls import unit_step
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.inputs import Classifier

AutoNorm = Literal["linf", "l2"]
AutoObjective = Literal["dlr", "margin", "confidence"]

MOMENTUM = 0.75  # weight of the new move against the last one
ENOUGH = 0.75  # share of steps between checkpoints that must raise the objective
LIKELIEST = 9  # targets where none are asked for


def apgd_targeted(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    norm: AutoNorm = "linf",
    objective: AutoObjective = "dlr",
    steps: int = 100,
    starts: int = 1,
    targets: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the likeliest wrong classes win, one run each (APGD-T; Croce and Hein 2020).

    Steps begin at twice the radius. At checkpoints that come ever closer a run that rose in fewer
    than three quarters of its steps, or not at all with the present step, halves its step and goes
    back to its best point. Ball and bounds are projected onto at once, also for l2.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: radius of the ball in input units.
        norm: norm of the ball: "linf" or "l2".
        objective: what rises for target t: "dlr" (Z_t - Z_y) / (Z_(1) - (Z_(3) + Z_(4)) / 2), for
            four classes or more, "margin" Z_t - Z_y, or "confidence" F_t, climbed on its log odds.
        steps: gradient steps of each run.
        starts: runs for each target, from random points.
        targets: how many of the likeliest wrong classes; None: 9, or all if there are fewer.
        seed: seed of the random starts.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Returns:
        The point of the largest objective, among those that change the prediction if there are
        any. Attempt a * starts + s is start s of the target that was a-th likeliest at the image.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one run.
    """
    check_choice("norm", norm, get_args(AutoNorm))
    check_choice("objective", objective, get_args(AutoObjective))
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        starts=starts,
        seed=seed,
        labels=targets,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    loss = _TARGETED[objective]
    with posed(model, x, y, config, loss) as problem:

        def climb(runs: Runs) -> tuple[Tensor, int]:
            if norm == "linf":
                start = problem.uniform_points(runs)
            else:
                start = initial_points(problem, runs, ["uniform_norm"] * starts, "every", norm)
            return _climb(problem, runs, start, loss, norm), len(runs) * steps

        return solve(
            problem,
            climb,
            loss=loss,
            targets=problem.wrong_targets(targets or min(LIKELIEST, problem.classes - 1)),
            starts=starts,
            choice="best_success",
        )


_TARGETED: dict[AutoObjective, LossName] = {
    "dlr": "target_dlr",
    "margin": "target_margin",
    "confidence": "target_confidence",
}


def checkpoints(steps: int) -> list[int]:
    """Steps after which the step size is judged: ceil(p_j T) with p_1 = 0.22 (section 3.2).

    p_(j + 1) = p_j + max(p_j - p_(j - 1) - 0.03, 0.06).
    """
    before, share, found = 0, 22, list[int]()  # hundredths: sums of decimals would round up
    while share <= 100:
        step = -(-share * steps // 100)
        if step not in found:
            found.append(step)
        before, share = share, share + max(share - before - 3, 6)
    return found


def _climb(
    problem: Problem,
    runs: Runs,
    point: Tensor,  # [B, *image] within ball and bounds
    loss: LossName,
    norm: AutoNorm,
) -> Tensor:  # [B, *image]
    """Best point of every run; every decision is per run and stays on the device."""
    config = problem.config
    hill, region = Hill(problem, runs, LOSSES[loss]), problem.region(runs, norm)
    shape = (-1,) + (1,) * (point.ndim - 1)
    at = hill.slope(point)
    value, gradient = at.value, at.gradient
    best, best_value, best_gradient = point, value, gradient
    previous = point
    size = torch.full_like(value, 2.0 * config.radius).view(shape)
    judged = checkpoints(config.steps)
    rises = torch.zeros_like(runs.index)  # [B] since the last checkpoint
    halved = torch.zeros_like(runs.index, dtype=torch.bool)  # [B] at the last checkpoint
    value_then, last = value, 0  # best value and step of the last checkpoint
    for step in range(1, config.steps + 1):
        ahead = region.project_(point + size * unit_step(gradient, norm))
        if step > 1:
            ahead = region.project_(
                point + MOMENTUM * (ahead - point) + (1.0 - MOMENTUM) * (point - previous)
            )
        previous, point = point, ahead
        old_value = value
        if step < config.steps:
            at = hill.slope(point)
            value, gradient = at.value, at.gradient
        else:  # the last point needs no gradient
            value = hill.height(point)
        rises += value > old_value
        better = value > best_value
        best = torch.where(better.view(shape), point, best)
        best_gradient = torch.where(better.view(shape), gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if step in judged:
            stuck = ~halved & (best_value <= value_then)
            halved = (rises < ENOUGH * (step - last)) | stuck
            wide = halved.view(shape)
            size = torch.where(wide, 0.5 * size, size)
            point = torch.where(wide, best, point)
            gradient = torch.where(wide, best_gradient, gradient)
            value = torch.where(halved, best_value, value)
            rises, value_then, last = torch.zeros_like(rises), best_value, step
    return best
