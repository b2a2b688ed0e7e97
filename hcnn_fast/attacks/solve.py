"""Runs in batches, scored by the exact model, of which the best of each image is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hcnn_fast.attacks.losses import LOSSES, LossName, rise_of
from hcnn_fast.attacks.norm_balls import size_of
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Problem, Runs
from hcnn_fast.engine.inputs import check_finite
from hcnn_fast.engine.memory import in_batches

Choice = Literal["first_success", "best_success", "nearest_success", "best"]

# Points of so many batches are held at once: enough that few batches are left half empty.
BATCHES_HELD = 4


def solve(
    problem: Problem,
    climb: Callable[[Runs], tuple[Tensor, int]],
    *,
    loss: LossName,
    targets: Tensor,  # [N, L] int64
    starts: int,
    choice: Choice,
    least: float | None = None,
) -> AttackResult:
    """Run `climb` from every start for every target of every image and keep each image's best.

    Args:
        problem: what is attacked.
        climb: maps runs to their points [B, *image] and the gradient steps spent on them.
        loss: what a point is worth, computed by the exact model.
        targets: classes that the runs of an image are for.
        starts: runs for each of them.
        choice: "first_success", or else the largest value; "best_success", the largest value among
            the successes, or else of all; "nearest_success", the success of the least l_inf
            distance, or else the largest value; "best", the largest value.
        least: rise from which on a point is a success; None: a wrong prediction is one.

    Raises:
        ValueError: the model's logits are not finite.
        RuntimeError: memory does not suffice for one run.
    """
    image = problem.image
    count = targets.shape[1] * starts
    held = max(1, BATCHES_HELD * problem.batch // max(count, 1))  # images at a time
    kept: list[_Scored] = []
    attempts: list[Tensor] = []
    spent, batch = 0, problem.batch
    for low in range(0, max(len(image), 1), held):  # no image: one empty part
        part = slice(low, min(low + held, len(image)))
        scored, steps, batch = _scored(
            problem, problem.every_run(targets, starts, part), climb, loss, least, batch
        )
        attempt = _chosen(scored, image[part], count, choice)  # [n]
        kept.append(scored.rows(attempt + count * torch.arange(len(attempt), device=image.device)))
        attempts.append(attempt)
        spent += steps
    return AttackResult(
        point=torch.cat([part.point for part in kept]),
        value=LOSSES[loss].value(torch.cat([part.rise for part in kept])).float(),
        success=torch.cat([part.hit for part in kept]),
        confidence=torch.cat([part.confidence for part in kept]).float(),
        attempt=torch.cat(attempts),
        gradient_steps=spent,
    )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What runs found, by the exact model."""

    point: Tensor  # [B, *image]
    rise: Tensor  # [B]
    hit: Tensor  # [B] bool
    confidence: Tensor  # [B]

    def rows(self, row: Tensor) -> _Scored:
        return _Scored(
            point=self.point[row],
            rise=self.rise[row],
            hit=self.hit[row],
            confidence=self.confidence[row],
        )


def _scored(
    problem: Problem,
    runs: Runs,
    climb: Callable[[Runs], tuple[Tensor, int]],
    loss: LossName,
    least: float | None,
    batch: int,
) -> tuple[_Scored, int, int]:
    """What these runs find, the gradient steps spent, and the batch that memory sufficed for."""
    point = problem.image.new_empty((len(runs), *problem.image.shape[1:]))
    rise, confidence = point.new_empty(len(runs)), point.new_empty(len(runs))
    hit = torch.empty_like(runs.index, dtype=torch.bool)
    spent = 0

    def run(begin: int, end: int) -> None:
        nonlocal spent
        rows = slice(begin, end)
        some = runs.rows(rows)
        point[rows], steps = climb(some)
        with torch.no_grad():
            logits = check_finite(problem.model.exact(point[rows]))
        rise[rows] = rise_of(LOSSES[loss], logits, some.label, some.target)
        hit[rows] = logits.argmax(1) != some.label if least is None else rise[rows] >= least
        confidence[rows] = torch.softmax(logits, 1).amax(1)
        spent += steps

    batch = in_batches(len(runs), batch, run)
    return _Scored(point=point, rise=rise, hit=hit, confidence=confidence), spent, batch


def _chosen(
    scored: _Scored,  # of n images, `count` runs each
    image: Tensor,  # [n, *image]
    count: int,
    choice: Choice,
) -> Tensor:  # [n] int64, the first of equals
    """Which attempt of each image is kept; attempts that end at one point are equals.

    A product may round a point otherwise in another row of a batch, so values would not tell.
    """
    rise, hit = scored.rise.view(-1, count), scored.hit.view(-1, count)  # [n, count]
    if choice == "first_success":
        rise = torch.where(hit, torch.inf, rise)
    elif choice != "best":
        among = rise
        if choice == "nearest_success":
            away = scored.point - image.repeat_interleave(count, 0)  # [B, *image]
            among = -size_of(away, "linf").view(-1, count)
        rise = torch.where(hit.any(1, keepdim=True), among.masked_fill(~hit, -torch.inf), rise)
    chosen = rise.argmax(1, keepdim=True)  # [n, 1]
    points = scored.point.reshape(len(rise), count, image.shape[1:].numel())  # [n, count, D]
    there = points.gather(1, chosen[:, :, None].expand(-1, 1, points.shape[2]))  # [n, 1, D]
    equal = (points == there).all(2) & (hit == hit.gather(1, chosen))  # [n, count]
    return equal.int().argmax(1)
