"""The attack that looks as far as perturbation and search reach together."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.defended import Aim
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Runs, posed
from hcnn_fast.attacks.verdict import Submitted, judged_attack
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.memory import in_batches

LongRangeGoal = Literal["accepted_error", "error"]


def long_range(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    steps: int = 100,
    step_size: float | None = None,
    starts: int = 2,
    targets: int | None = None,
    goal: LongRangeGoal = "accepted_error",
    seed: int = 0,
    batch_size: int | None = None,
) -> AttackResult:
    """Place the defence's search so that the most confident wrong points further out are in it.

    For each wrong label, z maximises log F_l of the base model within radius eta + xi, that of the
    attack and that of the search. Submitted is x + clip(z - x, -eta, eta): z is at most xi from it,
    so that an exact MCN there errs whenever F_l(z) exceeds the value of y (spec A.10, H.5). Clipped
    entry by entry, the point lies nearer to z than one that is scaled back. The defence is attacked
    without a gradient through it, and gives the verdict.

    Args:
        defense: what is attacked, and the threshold below which it rejects.
        x: [N, *image] float32 or float64 within the bounds of `defense.config`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius of the attack, eta, in input units.
        steps: gradient steps of each run.
        step_size: constant length of a step; None: 2.5 * (radius + search radius) / steps.
        starts: runs for each wrong label; the first from x itself, the others from points uniform
            within `radius`.
        targets: only the k likeliest wrong labels; None: all of them.
        goal: "accepted_error", a wrong prediction that the defence accepts; "error", a wrong
            prediction, rejected or not.
        seed: seed of the random starts.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Returns:
        As `danskin_pgd`; every run's point is judged. Attempt a * starts + s is start s of wrong
        label a, in order, or from the likeliest where `targets` is given.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the defence's backend cannot run, or memory does not suffice for one run.
    """
    aim = Aim.at(defense, goal)
    check_choice("goal", goal, get_args(LongRangeGoal))
    search = defense.config
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        starts=starts,
        seed=seed,
        labels=targets,
        bounds=search.bounds,
        precision=search.precision,
        backend=search.backend,
        batch_size=batch_size,
    )
    reach = SearchConfig.mcn(
        radius + search.radius, steps=steps, step_size=step_size, schedule="constant"
    )
    path = Climb(kind="log_odds", step_sizes=reach.step_sizes())
    with posed(defense.model, x, y, config) as problem:
        ball = Ball(
            image=problem.image,
            radius=reach.radius,
            bounds=search.bounds,
            backend=problem.backend,
        )

        def climb(runs: Runs) -> Submitted:
            point = problem.image.new_empty((len(runs), 1, *problem.image.shape[1:]))

            def run(begin: int, end: int) -> None:
                some = runs.rows(slice(begin, end))
                candidates = Candidates(
                    index=some.index,
                    label=some.target,
                    point=problem.uniform_points(some, first=0),
                )
                far = ascend(problem.model.fast, candidates, ball, path).point
                point[begin:end, 0] = problem.region(some).project_(far)

            in_batches(len(runs), problem.batch, run)
            asked = torch.ones((len(runs), 1), dtype=torch.bool, device=point.device)
            return Submitted(point, asked, len(runs) * steps)

        return judged_attack(
            problem, defense, aim, climb, targets=problem.wrong_targets(targets), starts=starts
        )
