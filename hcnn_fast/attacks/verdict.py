"""The verdict of a defended classifier on the points that an attack submits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hcnn_fast.attacks.defended import Aim, has_values, rise_of_answer
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs
from hcnn_fast.attacks.solve import BATCHES_HELD
from hcnn_fast.defense import Defense
from hcnn_fast.engine.memory import in_batches

JUDGED_AT_ONCE = 256  # points of which the defence's best points of all labels are held


@dataclass(frozen=True)
class Verdicts:
    """What the defence itself, from a cold start, says of B points.

    Attributes:
        value: [B] by how much the goal is passed.
        success: [B] bool, whether it is reached.
        confidence: [B] of the answer.
    """

    value: Tensor
    success: Tensor
    confidence: Tensor


def judge(
    defense: Defense,
    aim: Aim,
    point: Tensor,  # [B, *image]
    y: Tensor,  # [B]
) -> Verdicts:
    """Ask the defence about points: `Defense.predict`, with all its steps and starts."""
    asked = copy.copy(defense)  # the same, which also says where its labels' best points lie
    asked.config = defense.config.replace(keep_points=has_values(defense.config))
    value, confidence = (torch.empty(len(y), device=point.device) for _ in range(2))
    success = torch.zeros_like(y, dtype=torch.bool)

    def run(begin: int, end: int) -> None:
        rows = slice(begin, end)
        answer = asked.predict(point[rows])
        value[rows] = rise_of_answer(defense, aim, point[rows], y[rows], answer.search).float()
        confidence[rows] = answer.confidence
        if aim.goal == "rejection":
            success[rows] = ~answer.accepted
        else:
            success[rows] = answer.search.prediction != y[rows]
            if aim.goal == "accepted_error":
                success[rows] &= answer.accepted

    in_batches(len(point), JUDGED_AT_ONCE, run)
    return Verdicts(value=value, success=success, confidence=confidence)


def _strongest(
    defense: Defense,
    aim: Aim,
    points: Tensor,  # [n, A, *image]
    y: Tensor,  # [n]
    asked: Tensor,  # [n, A] bool, which of the points count
) -> AttackResult:
    """Judge A points of every image and keep a success before a failure.

    Of successes the most confident is kept, which is one at every threshold where any is, or for
    "rejection" the least confident; of failures the one of the largest value.
    """
    images, attempts = points.shape[:2]
    every = points.flatten(0, 1)
    rows = asked.flatten().nonzero()[:, 0]  # [M]
    found = judge(defense, aim, every[rows], y.repeat_interleave(attempts)[rows])
    nothing = found.value.new_full((len(every),), -torch.inf)
    value = nothing.index_copy(0, rows, found.value)
    success = torch.zeros_like(asked.flatten()).index_copy(0, rows, found.success)
    confidence = nothing.index_copy(0, rows, found.confidence)
    sure = -confidence if aim.goal == "rejection" else confidence
    hit = success.view(images, attempts)
    hits = sure.view(images, attempts).masked_fill(~hit, -torch.inf)
    rank = torch.where(hit.any(1, keepdim=True), hits, value.view(images, attempts))
    chosen = rank.argmax(1)  # the first of equals
    best = chosen + attempts * torch.arange(images, device=y.device)
    return AttackResult(
        point=every[best],
        value=value[best],
        success=success[best],
        confidence=confidence[best],
        attempt=chosen,
        gradient_steps=0,
        queries=len(rows),
    )


@dataclass(frozen=True)
class Submitted:
    """What B runs submit to the defence: each A points.

    Attributes:
        points: [B, A, *image].
        asked: [B, A] bool, whether the point is worth the asking; one of each run is.
        gradient_steps: gradients of single images that were computed.
    """

    points: Tensor
    asked: Tensor
    gradient_steps: int


def judged_attack(
    problem: Problem,
    defense: Defense,
    aim: Aim,
    climb: Callable[[Runs], Submitted],
    *,
    targets: Tensor,  # [N, L] int64
    starts: int,
    width: int = 1,
) -> AttackResult:
    """Climb from every start for every target of every image, and keep what the defence says of it.

    Args:
        problem: the images and the base model.
        defense: the judge.
        aim: what a success is.
        climb: maps runs to what they submit.
        targets: classes that the runs of an image are for.
        starts: runs for each of them.
        width: what passes the model at once for each run.
    """
    count = targets.shape[1] * starts
    held = max(1, BATCHES_HELD * problem.batch // max(width * count, 1))  # images at a time
    parts: list[AttackResult] = []
    for low in range(0, max(len(problem.image), 1), held):  # no image: one empty part
        part = slice(low, min(low + held, len(problem.image)))
        label = problem.label[part]
        found = climb(problem.every_run(targets, starts, part))
        each = found.points.shape[1]
        shape = (len(label), count * each)
        points = found.points.reshape(*shape, *found.points.shape[2:])
        kept = _strongest(defense, aim, points, label, found.asked.view(shape))
        parts.append(
            replace(kept, attempt=kept.attempt // each, gradient_steps=found.gradient_steps)
        )
    return AttackResult(
        point=torch.cat([part.point for part in parts]),
        value=torch.cat([part.value for part in parts]),
        success=torch.cat([part.success for part in parts]),
        confidence=torch.cat([part.confidence for part in parts]),
        attempt=torch.cat([part.attempt for part in parts]),
        gradient_steps=sum(part.gradient_steps for part in parts),
        queries=sum(part.queries for part in parts),
    )
