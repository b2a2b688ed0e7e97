"""Rows of a chunk: what a model answers at its points, and at what attacks made of them."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from hcnn_fast.attacks import AttackResult, strengthened_pgd
from hcnn_fast.attacks.norm_balls import BallNorm, size_of
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.evaluation import Answers, AttemptTable
from hcnn_fast.evaluation.table import CLEAN, UNTARGETED
from hcnn_fast.experiments.experiment import Work
from hcnn_fast.training.losses import LOSSES, LossName

RUNS = 256  # runs that pass the model at once, or as many as one image has: the same everywhere
IMAGES = 256  # images that pass the model at once


def logits_of(model: nn.Module, x: Tensor) -> Tensor:  # [n, *image] -> [n, C]
    """The model's logits, in parts of `IMAGES`."""
    with torch.no_grad():
        return torch.cat([as_logits(model(part), len(part)) for part in torch.split(x, IMAGES)])


def whole_images(runs: int) -> int:
    """A batch that holds all `runs` of an image together, whatever else is in the chunk.

    `confident_pgd` ends the runs of an image together with those in its batch, so a batch that
    splits an image would let its points depend on its neighbours.
    """
    return runs * max(1, RUNS // runs)


def clean_rows(
    work: Work,
    *,
    defended: Answers | None = None,
    label_rank: Tensor | None = None,  # [n]
    loss: LossName | None = None,
) -> AttemptTable:
    """The points themselves; without answers of a defence the model's own stand for them."""
    logits = logits_of(work.subject.model, work.x)  # [n, C]
    base = Answers.from_logits(logits, work.y)
    return AttemptTable.of_attempt(
        example=work.example,
        label=work.y,
        base=base,
        defended=base if defended is None else defended,
        label_rank=label_rank,
        loss=_loss_of(loss, logits, work.y),
        seed=work.settings.seed,
    )


def attack_rows(
    work: Work,
    point: Tensor,  # [n, *image]
    *,
    attack: str,
    radius: float,
    norm: str = "linf",
    distance: Tensor | None = None,  # [n]
    gradient_steps: int = 0,
    queries: int = 1,
    target: int = UNTARGETED,
    restart: int | Tensor = 0,  # or [n]
    defended: Answers | None = None,
    label_rank: Tensor | None = None,  # [n]
    loss: LossName | None = None,
) -> AttemptTable:
    """What the model answers at the points of an attack, scored by the model alone.

    Args:
        work: the points attacked.
        point: what was made of them.
        attack: its name; `CLEAN` is not one.
        radius: of the ball.
        norm: of the radius; a name of `BallNorm` where `distance` is not given.
        distance: how much of the radius is used; None: measured.
        gradient_steps: of each image, at most.
        queries: of each image, at most.
        target: class aimed at.
        restart: which of the restarts it is, for each image or all.
        defended: answers of a defence there; None: the model's own stand for them.
        label_rank: see `AttemptTable`.
        loss: a loss of training to measure there; None: none.
    """
    if attack == CLEAN:
        raise ValueError(f"attack is {CLEAN!r}, which names the points themselves")
    logits = logits_of(work.subject.model, point)  # [n, C]
    base = Answers.from_logits(logits, work.y)
    return AttemptTable.of_attempt(
        example=work.example,
        label=work.y,
        base=base,
        defended=base if defended is None else defended,
        attack=attack,
        norm=norm,
        radius=radius,
        distance=_distance(point, work.x, norm) if distance is None else distance,
        target=target,
        restart=restart,
        seed=work.settings.seed,
        gradient_steps=gradient_steps,
        queries=queries,
        label_rank=label_rank,
        loss=_loss_of(loss, logits, work.y),
    )


def _distance(point: Tensor, x: Tensor, norm: str) -> Tensor:  # [n, *image] both -> [n]
    if norm not in get_args(BallNorm):
        raise ValueError(f"distance is None for norm {norm!r}, expected the distances [n]")
    return size_of(point - x, norm)  # type: ignore[arg-type]  # a name of one, as just seen


def _loss_of(
    name: LossName | None,
    logits: Tensor,  # [n, C]
    label: Tensor,  # [n]
) -> Tensor | None:  # [n]
    return None if name is None else LOSSES[name].value(logits.double(), label)


def strengthened(
    work: Work,
    radius: float,
    *,
    starts: int,
    model: nn.Module | None = None,
    steps: int | None = None,
) -> AttackResult:
    """Every wrong class made as confident as can be, on the model under test or another."""
    settings = work.settings
    return strengthened_pgd(
        work.subject.model if model is None else model,
        work.x,
        work.y,
        radius=radius,
        steps=settings.steps if steps is None else steps,
        starts=starts,
        seed=settings.seed,
        batch_size=RUNS,
    )


def strengthened_rows(
    work: Work,
    radius: float,
    *,
    attack: str,
    starts: int,
    steps: int | None = None,
    loss: LossName | None = None,
) -> AttemptTable:
    """Rows of `strengthened` on the model under test; `steps` None: those of the settings."""
    steps = work.settings.steps if steps is None else steps
    return attack_rows(
        work,
        strengthened(work, radius, starts=starts, steps=steps).point,
        attack=attack,
        radius=radius,
        gradient_steps=(work.classes - 1) * starts * steps,
        loss=loss,
    )
