"""The l_inf attack of Carlini and Wagner, after the nearest p-confident point within a bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_count
from hcnn_fast.attacks.confident import needed_log_odds
from hcnn_fast.attacks.losses import LOSSES, rise_of
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.inputs import Classifier
from hcnn_fast.engine.slopes import slope

SHRINK = 0.9  # of the bound on the entries, whenever a point within it was found
GROWTH = 2.0  # of the weight of confidence, whenever none was
DECAY, SQUARE_DECAY, GUARD = 0.9, 0.999, 1e-8  # of Adam


def confident_cw(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    confidence: float,
    rounds: int = 10,
    steps: int = 50,
    step_size: float | None = None,
    starts: int = 1,
    targets: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    precision: Precision = "float32",
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Find the l_inf nearest point within the radius where a wrong class has confidence p.

    Carlini and Wagner's l_inf attack (2017) as Wu et al. (2018) change it: for each wrong class l
    Adam lowers c * max(logit(p) - logit(F_l), 0) + sum_i max(|d_i| - t, 0). In place of a margin of
    logits stand the exact log odds, of which logit(p) is neither too many nor too few (spec A.5).
    After a round that found a p-confident point, t becomes 0.9 times its distance, else c doubles.
    Points never leave the ball. The papers give no c, step size nor number of rounds.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes that are right.
        radius: l_inf radius in input units.
        confidence: p in (0, 1).
        rounds: how often t shrinks or c grows.
        steps: gradient steps of a round.
        step_size: length of Adam's steps; None: 2.5 * radius / steps.
        starts: runs for each wrong class, the first from the image, the others from random points.
        targets: only the k likeliest wrong classes; None: all of them.
        seed: seed of the random starts.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the attack; the answer is scored in float32.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.

    Returns:
        The nearest p-confident point of each image, or else the one of the largest F_l. `success`
        says whether F_l >= p was reached for a wrong class l, `value` is F_l.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one run.
    """
    check_count("rounds", rounds)
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
            lambda runs: _nearest(problem, runs, least, rounds),
            loss="target_confidence",
            targets=problem.wrong_targets(targets),
            starts=starts,
            choice="nearest_success",
            least=least,
        )


def _nearest(
    problem: Problem,
    runs: Runs,
    least: float,
    rounds: int,
) -> tuple[Tensor, int]:  # [B, *image], gradient steps
    """Nearest p-confident or else most confident point of every run; no decision on the host."""
    config = problem.config
    region = problem.region(runs)
    image = region.image  # [B, *image]
    shape = (-1,) + (1,) * (image.ndim - 1)
    rate = config.step_sizes()[0]
    point = problem.uniform_points(runs, first=0)
    best = point.clone()
    distance = image.new_full((len(runs),), math.inf)  # [B] of the best p-confident point
    most = image.new_full((len(runs),), -math.inf)  # [B] log odds of the best where there is none
    bound = image.new_full((len(runs),), config.radius)  # [B] t
    weight = torch.ones_like(bound)  # [B] c
    mean, square = torch.zeros_like(image), torch.zeros_like(image)

    def keep(odds: Tensor) -> None:
        nonlocal best, distance, most
        reached = (point - image).abs().flatten(1).amax(1).where(odds >= least, math.inf)  # [B]
        better = (reached < distance) | ((distance == math.inf) & (odds > most))
        best = torch.where(better.view(shape), point, best)
        distance, most = torch.minimum(distance, reached), torch.maximum(most, odds)

    for turn in range(rounds):
        before = distance
        for step in range(config.steps):
            at = slope(problem.model.fast, point, runs.target, "log_odds", 1.0, problem.backend)
            odds, uphill = at.value.to(image.dtype), at.gradient
            keep(odds)
            away = point - image
            pull = away.sign() * (away.abs() > bound.view(shape))
            push = torch.where((odds < least).view(shape), weight.view(shape) * uphill, 0.0)
            gradient = torch.nan_to_num(pull - push)
            count = turn * config.steps + step + 1
            mean = DECAY * mean + (1.0 - DECAY) * gradient
            square = SQUARE_DECAY * square + (1.0 - SQUARE_DECAY) * gradient.square()
            scale = (square / (1.0 - SQUARE_DECAY**count)).sqrt() + GUARD
            point = region.project_(point - rate * mean / (1.0 - DECAY**count) / scale)
        found = distance < before  # [B] nearer than all before, so within the bound or near it
        bound = torch.where(found, SHRINK * torch.minimum(bound, distance), bound)
        weight = torch.where(found, weight, GROWTH * weight)
        point = torch.where((distance < math.inf).view(shape), best, point)
    with torch.no_grad():
        logits = problem.model.fast(point)
    keep(rise_of(LOSSES["target_confidence"], logits, runs.label, runs.target))
    return best, len(runs) * rounds * config.steps
