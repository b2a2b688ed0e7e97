"""Gradient ascent on the value function of a defended classifier, through its search."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.checks import check_count
from hcnn_fast.attacks.defended import Aim, Goal
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs, posed
from hcnn_fast.attacks.value_hill import ValueHill
from hcnn_fast.attacks.verdict import Submitted, judged_attack
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.engine.memory import in_batches

RANDOM_SEEDS = 4  # over which gradients are averaged where the defence draws random starts


def danskin_pgd(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    steps: int = 40,
    step_size: float | None = None,
    inner_steps: int = 10,
    starts: int = 2,
    targets: int | None = None,
    goal: Goal = "accepted_error",
    expectation: int | None = None,
    momentum: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
) -> AttackResult:
    """Attack a defended classifier end to end, along the gradient of what its search attains.

    The defence answers with the label of the largest v_l(x') = max_z F_l(z) around x' (for HCNN
    less the weighed distance). By Danskin's theorem the gradient of v_l is that of F_l at the
    maximiser, so that the search is no obstacle to gradients; differentiated step by step, the
    signs in it would leave none (spec A.10, H.4). Sign steps of decaying length climb
    g = max_{l != y} v_l - v_y, in log odds, which do not saturate, once for each wrong label and
    once for the best at the time. The inner maximisers follow x' from step to step.

    The defence itself is asked about the best point of every run and about its last, from a cold
    start and with all its steps: a success is one by that verdict alone. NCN and the entropy search
    have no v_l to climb; the MCN of the same ball stands in, and the verdict is theirs.

    Args:
        defense: what is attacked, and the threshold below which it rejects.
        x: [N, *image] float32 or float64 within the bounds of `defense.config`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius of the attack, eta, in input units.
        steps: outer steps of each run.
        step_size: length of the first; None: radius / 2. Step t of T has the share 1 - t / T.
        inner_steps: of the search after each outer step, from the last maximisers. A defence that
            takes no more steps itself is followed as it is, from the image.
        starts: runs for each target; the first from x itself, the others from uniform points.
        targets: only the k likeliest wrong labels; None: all of them.
        goal: "accepted_error", a wrong prediction that the defence accepts; "error", a wrong
            prediction, rejected or not; "rejection", any answer that it rejects, along the falling
            confidence of the answer: the attack by small perturbations.
        expectation: seeds of the search's random starts over which gradients are averaged; None: 1
            for a defence with one start, else 4. A content's starts are always the same, yet every
            outer step changes the content and with it all of them: along the way they are as good
            as drawn afresh, and the slope at one draw says little about the next.
        momentum: factor in [0, 1) on the accumulated gradient.
        seed: seed of the random starts of the attack.
        batch_size: largest number of inner runs that pass the model at once; None: planned.

    Returns:
        Of the points asked about the most confident success (for "rejection" the least confident),
        or else the one of the largest value. `value` is g in log odds as the defence's own search
        attains it, for "accepted_error" at most the log odds by which the answer passes the
        threshold, and for "rejection" those that it lacks. `confidence` is that of its answer.
        Attempt a * starts + s is start s of wrong label a, in order, or from the likeliest where
        `targets` is given; the runs for any label come last, and are alone for "rejection".
        `gradient_steps` counts inner and outer gradients, `queries` the points that the defence was
        asked about.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the defence's backend cannot run, or memory does not suffice for one run.
    """
    aim = Aim.at(defense, goal)
    check_count("inner_steps", inner_steps)
    seeds = _seeds(expectation, defense.config.starts)
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        starts=starts,
        seed=seed,
        labels=targets,
        bounds=defense.config.bounds,
        precision=defense.config.precision,
        backend=defense.config.backend,
        batch_size=batch_size,
    )
    with posed(defense.model, x, y, config) as problem:
        targeted = goal != "rejection"
        wanted = problem.label[:, None]  # [N, L], where y stands for any other
        if targeted and problem.classes == 2:
            wanted = 1 - wanted
        elif targeted:
            wanted = torch.cat([problem.wrong_targets(targets), wanted], 1)
        width = seeds * defense.config.starts  # inner runs for each label

        def hill_of(some: Runs, any_label: bool) -> ValueHill:
            return ValueHill(
                problem,
                some,
                defense.config,
                aim,
                steps=inner_steps,
                expectation=seeds,
                any_label=any_label,
            )

        return judged_attack(
            problem,
            defense,
            aim,
            lambda runs: _climb_all(problem, runs, hill_of, width),
            targets=wanted,
            starts=starts,
            width=2 * width,
        )


def _seeds(expectation: int | None, starts: int) -> int:
    """Over how many seeds of a search with so many starts gradients are averaged."""
    if expectation is None:
        return 1 if starts == 1 else RANDOM_SEEDS
    check_count("expectation", expectation)
    if expectation > 1 and starts == 1:
        raise ValueError(
            f"expectation is {expectation} and the defence has one start, which is the image "
            "itself: expected 1 or None"
        )
    return expectation


def _climb_all(
    problem: Problem,
    runs: Runs,
    hill_of: Callable[[Runs, bool], ValueHill],
    width: int,
) -> Submitted:
    """The best and the last point of every run, in batches of runs for as many labels each."""
    points = problem.image.new_empty((len(runs), 2, *problem.image.shape[1:]))
    spent = 0
    any_other = runs.target == runs.label  # [B]
    for any_label, labels in ((False, 2), (True, problem.classes)):
        group = (any_other == any_label).nonzero()[:, 0]

        def run(begin: int, end: int, group: Tensor = group, any_label: bool = any_label) -> None:
            nonlocal spent
            rows = group[begin:end]
            some = runs.rows(rows)
            hill = hill_of(some, any_label)
            points[rows] = _climb(problem, some, hill)
            spent += hill.backwards

        in_batches(len(group), max(1, problem.batch // (labels * width)), run)
    moved = (points[:, 0] != points[:, 1]).flatten(1).any(1)  # [B]
    asked = torch.stack([torch.ones_like(moved), moved], 1)  # [B, 2]
    return Submitted(points, asked, spent)


def _climb(problem: Problem, runs: Runs, hill: ValueHill) -> Tensor:  # [B, 2, *image]
    """The best and the last point of each run, by the attacker's own inner maximisers."""
    config = problem.config
    point = problem.uniform_points(runs, first=0)
    best, momentum = point.clone(), torch.zeros_like(point)
    best_value = torch.full_like(point.flatten(1)[:, 0], -math.inf)  # [B]
    for size in config.step_sizes():
        value, gradient = hill.slope(point)
        ops.pgd_step_(
            point,
            gradient,
            problem.image,
            runs.index,
            torch.full_like(best_value, size),
            radius=config.radius,
            bounds=config.bounds,
            momentum_buffer=momentum,
            momentum=config.momentum,
            value=value,
            best=best,
            best_value=best_value,
            backend=problem.backend,
        )
    higher = hill.value(point) > best_value
    best = torch.where(higher.view((-1,) + (1,) * (point.ndim - 1)), point, best)
    return torch.stack([best, point], 1)
