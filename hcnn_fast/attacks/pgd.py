"""Untargeted projected gradient ascent in the l_inf ball (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast import backends, ops
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.config import BackendName, Precision, SearchConfig
from hcnn_fast.engine.ascent import Climb, ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.inputs import (
    Classifier,
    check_finite,
    check_images,
    check_labels,
    check_model,
)
from hcnn_fast.engine.memory import in_batches, plan_batch_size
from hcnn_fast.engine.model import PreparedModel, resolve_precision

Objective = Literal["cross_entropy", "margin", "log_odds"]


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
        objective: what rises: "cross_entropy" -log F_y, "margin" max_k Z_k - Z_y over k != y, or
            "log_odds" -logit(F_y), the cross entropy's direction without its vanishing gradient.
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
    if objective not in get_args(Objective):
        raise ValueError(
            f"objective is {objective!r}, expected one of {', '.join(get_args(Objective))}"
        )
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
    with torch.inference_mode(False), torch.enable_grad():
        images = check_images(x, config)
        classes = check_labels(y, images)
        with torch.autocast(images.device.type, enabled=False):  # precision is an argument
            return _run(model, images, classes, config, objective)


def _run(
    model: Classifier,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    config: SearchConfig,
    objective: Objective,
) -> AttackResult:
    image = x[:1] if len(x) else x.new_full((1, *x.shape[1:]), config.bounds[0])
    prepared = PreparedModel(check_model(model, x), resolve_precision(config.precision, x), image)
    ball = Ball(
        image=x,
        radius=config.radius,
        bounds=config.bounds,
        backend=backends.resolve(config.backend, x.device.type),
    )
    climb = Climb(
        kind=objective,
        step_sizes=config.step_sizes(),
        momentum=config.momentum,
        downhill=objective != "cross_entropy",
    )
    y = check_labels(y, x, prepared.classes)
    candidates = _candidates(y, ball, config)
    rows = len(candidates)
    point = torch.empty_like(candidates.point)
    value = point.new_empty(rows)
    prediction = torch.empty_like(candidates.label)
    confidence = point.new_empty(rows)

    def run(begin: int, end: int) -> None:
        part = slice(begin, end)
        found = ascend(prepared.fast, candidates.part(begin, end), ball, climb)
        point[part], value[part] = found.point, found.value
        with torch.no_grad():
            logits = check_finite(prepared.exact(point[part]))
        prediction[part] = logits.argmax(1)
        confidence[part] = torch.softmax(logits, 1).amax(1)

    batch = config.batch_size or (plan_batch_size(prepared.fast, x) if len(x) else 1)
    in_batches(rows, batch, run)
    wrong = prediction != candidates.label
    rank = torch.where(wrong, torch.inf, value).view(len(x), config.starts)
    attempt = rank.argmax(1)  # the first of equals
    chosen = torch.arange(len(x), device=x.device) * config.starts + attempt
    return AttackResult(
        point=point[chosen],
        value=value[chosen].float(),
        success=wrong[chosen],
        confidence=confidence[chosen].float(),
        attempt=attempt,
        gradient_steps=rows * config.steps,
    )


def _candidates(y: Tensor, ball: Ball, config: SearchConfig) -> Candidates:
    """Every restart of every image at its random first point; start 0 would be the image itself."""
    index = torch.arange(len(y), device=y.device).repeat_interleave(config.starts)
    start = torch.arange(1, config.starts + 1, device=y.device).repeat(len(y))
    point = ops.random_starts(
        ball.image,
        ops.content_hash(ball.image, backend=ball.backend),
        index,
        y[index],
        start,
        seed=config.seed,
        radius=ball.radius,
        bounds=ball.bounds,
        backend=ball.backend,
    )
    return Candidates(index=index, label=y[index], point=point)
