"""The attacks of the HCNN paper: every wrong class as confident as can be, or p-confident."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.losses import LOSSES, rise_of
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Candidates
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.engine.slopes import slope

# Steps between two looks, on the host, at which runs are done.
LOOK_EVERY = 10


def strengthened_pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    steps: int = 100,
    step_size: float | None = None,
    starts: int = 10,
    start_at_image: bool = False,
    targets: int | None = None,
    momentum: float = 0.0,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make each wrong class in turn as confident as can be (Wu et al. 2018; spec A.5, H.3).

    Every wrong class has `starts` runs of PGD on log F_l, all in one batch. Of an image's runs the
    one of the largest F_l is kept, among those that change the prediction if there are any. The
    paper gives neither step size nor loss: report those used.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        steps: gradient steps of each run.
        step_size: constant length of a step; None: 2.5 * radius / steps.
        starts: runs for each wrong class, from points uniform in ball and bounds.
        start_at_image: the first of them begins at the image itself.
        targets: only the k likeliest wrong classes; None: all of them.
        momentum: factor in [0, 1) on the accumulated gradient.
        seed: seed of the random starts.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Returns:
        The strongest point of each image; `value` is F_l there, of the class that the run was for.
        Attempt a * starts + s is start s of class a, counted over the wrong classes in order, or
        from the likeliest where `targets` is given.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one run.
    """
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        schedule="constant",
        momentum=momentum,
        starts=starts,
        seed=seed,
        labels=targets,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    path = Climb(kind="log_odds", step_sizes=config.step_sizes(), momentum=momentum)
    with posed(model, x, y, config, "target_confidence") as problem:

        def climb(runs: Runs) -> tuple[Tensor, int]:
            candidates = _candidates(problem, runs, start_at_image)
            point = ascend(problem.model.fast, candidates, problem.ball, path).point
            return point, len(runs) * steps

        return solve(
            problem,
            climb,
            loss="target_confidence",
            targets=problem.wrong_targets(targets),
            starts=starts,
            choice="best_success",
        )


def confident_pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    confidence: float,
    steps: int = 100,
    step_size: float | None = None,
    starts: int = 10,
    start_at_image: bool = False,
    targets: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Decide whether some wrong class reaches confidence p in the ball: event B of Wu et al. 2018.

    As `strengthened_pgd`, but a run ends where its class has reached p, and with it the other runs
    of the same image in its batch: use it to estimate how often B happens, never how confident a
    model can be made (spec H.3).

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes that are right.
        radius: l_inf radius in input units.
        confidence: p in (0, 1).
        steps: gradient steps of each run at most.
        step_size: constant length of a step; None: 2.5 * radius / steps.
        starts: runs for each wrong class, from points uniform in ball and bounds.
        start_at_image: the first of them begins at the image itself.
        targets: only the k likeliest wrong classes; None: all of them.
        seed: seed of the random starts.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Returns:
        `success` says whether F_l >= p was reached at `point` for a wrong class l, `value` is F_l;
        `gradient_steps` counts the steps that were taken.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one run.
    """
    config = SearchConfig.ncn(  # checks p as well
        radius,
        confidence,
        steps=steps,
        step_size=step_size,
        schedule="constant",
        momentum=0.0,
        starts=starts,
        seed=seed,
        labels=targets,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
    )
    least = needed_log_odds(confidence)
    with posed(model, x, y, config, "target_confidence") as problem:
        return solve(
            problem,
            lambda runs: _until(problem, _candidates(problem, runs, start_at_image), least),
            loss="target_confidence",
            targets=problem.wrong_targets(targets),
            starts=starts,
            choice="best_success",
            least=least,
        )


def needed_log_odds(confidence: float) -> float:
    """logit(p): F_l >= p if and only if Z_l - log sum_k e^Z_k >= logit(p) (spec A.5).

    The margin Z_l - max_k Z_k of the original attack would need log(p (C - 1) / (1 - p)) to be
    sure of p.
    """
    return math.log(confidence) - math.log1p(-confidence)


def _candidates(problem: Problem, runs: Runs, start_at_image: bool) -> Candidates:
    """The runs at their first points."""
    return Candidates(
        index=runs.index,
        label=runs.target,
        point=problem.uniform_points(runs, first=0 if start_at_image else 1),
    )


def _until(
    problem: Problem,
    candidates: Candidates,
    least: float,
) -> tuple[Tensor, int]:  # [B, *image], gradient steps
    """Best points of PGD on the log odds; runs of an image stop once one of them has `least`."""
    index, label, point = candidates.index, candidates.label, candidates.point.clone()
    best = point.clone()  # [B, *image]
    best_odds = torch.full((len(point),), -math.inf, dtype=point.dtype, device=point.device)
    row = torch.arange(len(point), device=point.device)  # [b] of the runs that go on
    kept, spent = best.clone(), 0
    for step, size in enumerate(problem.config.step_sizes()):
        at = slope(problem.model.fast, point, label, "log_odds", 1.0, problem.backend)
        odds, gradient = at.value, at.gradient
        ops.pgd_step_(
            point,
            gradient,
            problem.image,
            index,
            torch.full_like(best_odds, size),
            radius=problem.config.radius,
            bounds=problem.config.bounds,
            value=odds,
            best=best,
            best_value=best_odds,
            backend=problem.backend,
        )
        spent += len(point)
        if step % LOOK_EVERY == 0:
            kept[row] = best
            done = torch.isin(index, index[best_odds >= least])  # [b]
            if bool(done.any()):
                on = ~done
                row, index, label = row[on], index[on], label[on]
                point, best, best_odds = point[on], best[on], best_odds[on]
            if not len(row):
                return kept, spent
    with torch.no_grad():
        logits = problem.model.fast(point)
    odds = rise_of(LOSSES["target_confidence"], logits, label, label)  # [b]
    better = odds > best_odds  # [b]
    kept[row] = torch.where(better.view((-1,) + (1,) * (point.ndim - 1)), point, best)
    return kept, spent
