"""Untargeted projected gradient ascent in the l_inf ball (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.losses import LOSSES, as_margin
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Candidates
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.engine.slopes import Forward

Objective = Literal["cross_entropy", "margin", "log_odds", "dlr"]


def pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    steps: int = 20,
    step_size: float | None = None,
    starts: int = 1,
    objective: Objective = "cross_entropy",
    momentum: float = 0.0,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the model wrong about x within |z - x|_inf <= radius, from uniform random starts.

    Every run keeps its best iterate, and of the restarts the first that succeeds wins, or else the
    one with the largest objective.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        steps: gradient steps of each run.
        step_size: constant length of a step; None: 2.5 * radius / steps.
        starts: restarts per image.
        objective: what rises: "cross_entropy" -log F_y, "margin" max_k Z_k - Z_y over k != y,
            "log_odds" -logit(F_y), the cross entropy's direction without its vanishing gradient,
            or "dlr", the margin over the gap of the largest and third largest logit (Croce and Hein
            2020), for three classes or more.
        momentum: factor in [0, 1) on the accumulated gradient.
        seed: seed of the random starts.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one candidate.
    """
    check_choice("objective", objective, get_args(Objective))
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        schedule="constant",
        momentum=momentum,
        starts=starts,
        seed=seed,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    with posed(model, x, y, config, objective) as problem:

        def climb(runs: Runs) -> tuple[Tensor, int]:
            forward: Forward = problem.model.fast
            kind, label, downhill = objective, runs.label, objective in ("margin", "log_odds")
            if objective == "dlr":  # the engine has no such objective
                forward = as_margin(forward, LOSSES["dlr"], runs.label, runs.target)
                kind, label = "margin", torch.zeros_like(runs.label)
            candidates = Candidates(
                index=runs.index, label=label, point=problem.uniform_points(runs)
            )
            path = Climb(
                kind=kind,
                step_sizes=config.step_sizes(),
                momentum=momentum,
                downhill=downhill,
                may_stop=objective != "dlr",  # whose rows belong to their labels
            )
            point = ascend(forward, candidates, problem.ball, path).point
            return point, len(runs) * steps

        return solve(
            problem,
            climb,
            loss=objective,
            targets=problem.label[:, None],
            starts=starts,
            choice="first_success",
        )
