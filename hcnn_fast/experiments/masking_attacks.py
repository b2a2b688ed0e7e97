"""The attacks behind the diagnostics of gradient masking, and the names of their rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hcnn_fast.attacks import pgd, random_search, rays, square, transfer
from hcnn_fast.attacks.pgd import Objective
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.evaluation import AttemptTable, concatenate
from hcnn_fast.evaluation.masking import HALF_RANGE
from hcnn_fast.experiments.attempts import (
    IMAGES,
    RUNS,
    attack_rows,
    clean_rows,
    strengthened,
    strengthened_rows,
)
from hcnn_fast.experiments.experiment import Work
from hcnn_fast.experiments.settings import Settings

MAIN: Objective = "log_odds"  # direction of the cross entropy, without its vanishing gradient
LOSSES: tuple[Objective, ...] = ("cross_entropy", "margin", "log_odds", "dlr")
DLR_CLASSES = 3
SCALES = (0.01, 1.0, 100.0)  # of the logits
QUERIES_A_STEP = 12  # queries of an attack without gradients, for each gradient step of the others
SQUARE, RAYS, RANDOM = "square", "rays", "random search"
TARGETED, RESTARTS = "pgd, every wrong class", "pgd, restarts"
GRADIENT, NO_GRADIENT = "input gradient", "input gradient of exact zeros"


def pgd_name(objective: str, steps: int, scale: float = 1.0) -> str:
    """Name of the rows of one run of PGD."""
    scaled = "" if scale == 1.0 else f", logits times {scale:g}"
    return f"pgd on {objective}, {steps} steps{scaled}"


def transfer_name(model: str) -> str:
    """Name of the rows of points made on another model."""
    return f"transfer from {model}"


def step_counts(settings: Settings) -> tuple[int, ...]:
    """One step, half of the steps, all of them."""
    return tuple(sorted({1, max(1, settings.steps // 2), settings.steps}))


def diagnosed_radius(settings: Settings) -> float:
    """The radius at which attacks are compared: the largest asked for."""
    return settings.radii[-1]


def ladder(settings: Settings) -> tuple[float, ...]:
    """The radii of the accuracy curve: those asked for, twice the largest, half of the range."""
    largest = settings.radii[-1]
    beyond = {min(2.0 * largest, HALF_RANGE), HALF_RANGE}
    return tuple(sorted({*settings.radii, *(r for r in beyond if r > largest)}))


def losses(classes: int) -> tuple[Objective, ...]:
    """The objectives of PGD that this many classes allow."""
    return tuple(name for name in LOSSES if name != "dlr" or classes >= DLR_CLASSES)


class _Scaled(nn.Module):
    """A classifier with its logits multiplied by a number."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:  # [n, *image] -> [n, C]
        return self.scale * as_logits(self.model(x), len(x))


def attempts(work: Work) -> AttemptTable:
    """Every attack of the diagnostics on each point; one start unless restarts are the subject."""
    settings, classes = work.settings, work.classes
    radius, steps = diagnosed_radius(settings), settings.steps
    rows = [clean_rows(work), _gradient_rows(work)]
    rows += [pgd_rows(work, MAIN, count, radius) for count in step_counts(settings)]
    rows += [pgd_rows(work, MAIN, steps, other) for other in ladder(settings) if other != radius]
    rows += [pgd_rows(work, name, steps, radius) for name in losses(classes) if name != MAIN]
    rows += [
        pgd_rows(work, "cross_entropy", steps, radius, scale) for scale in SCALES if scale != 1.0
    ]
    rows += _restarts(work, radius)
    rows.append(strengthened_rows(work, radius, attack=TARGETED, starts=1))
    return concatenate([*rows, *_without_gradients(work, radius), *_transferred(work, radius)])


def pgd_rows(
    work: Work, objective: Objective, steps: int, radius: float, scale: float = 1.0
) -> AttemptTable:
    """One run of PGD from a random start, on the logits times a number."""
    model = work.subject.model if scale == 1.0 else _Scaled(work.subject.model, scale)
    found = pgd(
        model,
        work.x,
        work.y,
        radius=radius,
        steps=steps,
        objective=objective,
        seed=work.settings.seed,
        batch_size=RUNS,
    )
    name = pgd_name(objective, steps, scale)
    return attack_rows(work, found.point, attack=name, radius=radius, gradient_steps=steps)


def _restarts(work: Work, radius: float) -> list[AttemptTable]:
    """One row a point: of all restarts the first that succeeds, its number in `restart`.

    Fewer restarts are the first ones of more, so this row says what each number of them finds.
    """
    settings = work.settings
    found = pgd(
        work.subject.model,
        work.x,
        work.y,
        radius=radius,
        steps=settings.steps,
        starts=settings.starts,
        objective=MAIN,
        seed=settings.seed,
        batch_size=RUNS,
    )
    rows = []
    for restart in torch.unique(found.attempt).tolist():
        its = found.attempt == restart  # [n]
        rows.append(
            attack_rows(
                work.take(its),
                found.point[its],
                attack=RESTARTS,
                radius=radius,
                gradient_steps=settings.starts * settings.steps,
                restart=restart,
            )
        )
    return rows


def _without_gradients(work: Work, radius: float) -> list[AttemptTable]:
    settings, model = work.settings, work.subject.model
    queries = QUERIES_A_STEP * settings.steps
    found = {
        SQUARE: square(
            model,
            work.x,
            work.y,
            radius=radius,
            queries=queries,
            objective="margin",
            seed=settings.seed,
            batch_size=IMAGES,
        ),
        RAYS: rays(
            model,
            work.x,
            work.y,
            radius=radius,
            queries=queries,
            seed=settings.seed,
            batch_size=IMAGES,
        ),
        RANDOM: random_search(
            model,
            work.x,
            work.y,
            radius=radius,
            queries=queries,
            sampling="corners",
            objective="margin",
            seed=settings.seed,
            batch_size=IMAGES,
        ),
    }
    return [
        attack_rows(work, result.point, attack=name, radius=radius, queries=queries)
        for name, result in found.items()
    ]


def _transferred(work: Work, radius: float) -> list[AttemptTable]:
    """Points that were made as confident as can be on each of the other models."""
    rows = []
    for other in work.others:
        made = strengthened(work, radius, starts=1, model=other.model)
        scored = transfer(
            work.subject.model, work.x, work.y, made.point, radius=radius, batch_size=IMAGES
        )
        rows.append(
            attack_rows(work, scored.point, attack=transfer_name(other.name), radius=radius)
        )
    return rows


def _gradient_rows(work: Work) -> AttemptTable:
    """The points again, in rows whose name says whether the cross entropy's gradient vanishes."""
    gradients = []
    for x, y in zip(torch.split(work.x, IMAGES), torch.split(work.y, IMAGES), strict=True):
        leaf = x.clone().requires_grad_()  # [i, *image]
        logits = as_logits(work.subject.model(leaf), len(leaf))
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    vanishes = (torch.cat(gradients) == 0.0).flatten(1).all(1)  # [n]
    rows = []
    for name, its in ((NO_GRADIENT, vanishes), (GRADIENT, ~vanishes)):
        if bool(its.any()):
            some = work.take(its)
            rows.append(attack_rows(some, some.x, attack=name, radius=0.0, gradient_steps=1))
    return concatenate(rows)
