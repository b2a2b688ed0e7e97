"""The attacks on confidence-calibrated training, and the names of their rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hcnn_fast.attacks import distal, frames, pgd_conf, square, uniform_noise
from hcnn_fast.attacks.initial_points import Initialisation
from hcnn_fast.attacks.norm_balls import BallNorm, size_of
from hcnn_fast.attacks.pgd_conf import ConfObjective
from hcnn_fast.evaluation import Answers, AttemptTable, concatenate
from hcnn_fast.evaluation.small_perturbations import SHARES
from hcnn_fast.evaluation.table import NO_CLASS
from hcnn_fast.experiments.attempts import (
    IMAGES,
    RUNS,
    attack_rows,
    clean_rows,
    logits_of,
    strengthened_rows,
)
from hcnn_fast.experiments.experiment import Work
from hcnn_fast.experiments.settings import Settings

STRONG, RANDOM, ENTROPY = "PGD-Conf, zero start", "PGD-Conf, random starts", "PGD-CE"
TARGETED, SQUARE, FRAME = "every wrong class", "Square", "frame"
LOWEST, DISTAL = "PGD-CE in a small ball", "distal"
NO_BACKTRACKING = "PGD-Conf, zero start, no backtracking"
FRAMED = "frame"  # norm of their rows: the width of the border
WEAKER = 5  # PGD-CE and targeted runs take a fifth of the steps, as in the source
QUERIES_A_STEP = 5

# Radii of the other balls by data: those of the source's evaluation, and for Fashion-MNIST values
# between them, since no source has any.
OTHER_BALLS: dict[str, dict[BallNorm, float]] = {
    "mnist": {"l2": 3.0, "l1": 18.0, "l0": 15.0},
    "cifar10": {"l2": 2.0, "l1": 24.0, "l0": 10.0},
}
OTHERWISE: dict[BallNorm, float] = {"l2": 1.5, "l1": 12.0, "l0": 10.0}
WIDTHS = {28: 2, 32: 3}  # of frames, by the height of the images


@dataclass(frozen=True)
class Threat:
    """What an attacker may do.

    Attributes:
        name: in tables.
        norm: of the rows.
        radius: of them; attempts of smaller ones are within it.
    """

    name: str
    norm: str
    radius: float


def threats(settings: Settings, height: int) -> tuple[Threat, ...]:
    """The seen ball first, then larger ones, other norms, and frames."""
    balls = [Threat(f"linf {radius:g}", "linf", radius) for radius in settings.radii]
    others = OTHER_BALLS.get(settings.data, OTHERWISE)
    balls += [Threat(f"{norm} {radius:g}", norm, radius) for norm, radius in others.items()]
    width = frame_width(height)
    return (*balls, Threat(f"frame of {width}", FRAMED, float(width)))


def frame_width(height: int) -> int:
    """Pixels of the border, a fourteenth of the height where the source has no number."""
    return WIDTHS.get(height, max(1, height // 14))


def noise_id(example: torch.Tensor) -> torch.Tensor:  # [n] -> [n]
    """Ids of the noise inputs that go with points; those of points are never negative."""
    return -1 - example


def attempts(work: Work) -> AttemptTable:
    """Every threat on each point, barely perturbed points, and noise."""
    settings = work.settings
    seen = settings.radii[0]
    rows = [clean_rows(work)]
    for threat in threats(settings, work.x.shape[-2]):
        if threat.norm == FRAMED:
            rows.append(_framed(work, int(threat.radius)))
            continue
        norm: BallNorm = threat.norm  # type: ignore[assignment]  # no frame
        rows += _ball(work, norm, threat.radius)
        if norm == "linf":
            rows.append(
                strengthened_rows(
                    work,
                    threat.radius,
                    attack=TARGETED,
                    starts=1,
                    steps=max(1, settings.steps // WEAKER),
                )
            )
            rows.append(_square(work, threat.radius))
    rows.append(
        _conf(work, NO_BACKTRACKING, "linf", seen, "confidence", settings.steps, backtracking=None)
    )
    steps = max(1, settings.steps // WEAKER)
    rows += [
        _conf(work, LOWEST, "linf", share * seen, "cross_entropy", steps)
        for share in SHARES
        if 0.0 < share < 1.0
    ]
    return concatenate([*rows, *_noise(work, seen)])


def _ball(work: Work, norm: BallNorm, radius: float) -> list[AttemptTable]:
    settings = work.settings
    fewer = max(1, settings.steps // WEAKER)
    return [
        _conf(work, STRONG, norm, radius, "confidence", settings.steps),
        _conf(work, RANDOM, norm, radius, "confidence", settings.steps, starts=settings.starts),
        _conf(work, ENTROPY, norm, radius, "cross_entropy", fewer, starts=settings.starts),
    ]


def _conf(
    work: Work,
    name: str,
    norm: BallNorm,
    radius: float,
    objective: ConfObjective,
    steps: int,
    *,
    starts: int = 0,
    backtracking: float | None = 1.1,
) -> AttemptTable:
    """Runs of PGD-Conf: one from the point itself, or the best of some random starts."""
    first: Initialisation = "uniform_norm" if starts else "zero"
    initialisations = (first,) * max(1, starts)
    found = pgd_conf(
        work.subject.model,
        work.x,
        work.y,
        radius=radius,
        norm=norm,
        objective=objective,
        steps=steps,
        backtracking=backtracking,
        initialisations=initialisations,
        seed=work.settings.seed,
        batch_size=RUNS,
    )
    return attack_rows(
        work,
        found.point,
        attack=name,
        norm=norm,
        radius=radius,
        gradient_steps=steps * len(initialisations),
    )


def _square(work: Work, radius: float) -> AttemptTable:
    queries = QUERIES_A_STEP * work.settings.steps
    found = square(
        work.subject.model,
        work.x,
        work.y,
        radius=radius,
        queries=queries,
        objective="confidence",
        window_share=0.05,
        seed=work.settings.seed,
        batch_size=IMAGES,
    )
    return attack_rows(work, found.point, attack=SQUARE, radius=radius, queries=queries)


def _framed(work: Work, width: int) -> AttemptTable:
    settings = work.settings
    found = frames(
        work.subject.model,
        work.x,
        work.y,
        width=width,
        steps=settings.steps,
        starts=1,
        seed=settings.seed,
        batch_size=IMAGES,
    )
    return attack_rows(
        work,
        found.point,
        attack=FRAME,
        norm=FRAMED,
        radius=float(width),
        gradient_steps=settings.steps,
        distance=torch.full((len(work.y),), float(width)),
    )


def _noise(work: Work, radius: float) -> list[AttemptTable]:
    """Uniform noise, one input for each point, and what is made of it within the radius."""
    settings, model = work.settings, work.subject.model
    example = noise_id(work.example)  # [n]
    x = torch.cat(
        [uniform_noise(1, tuple(work.x.shape[1:]), seed=int(i)) for i in work.example]
    ).to(work.x)  # [n, *image]
    label = torch.full_like(work.y, NO_CLASS)  # [n]
    at_noise = Answers.from_logits(logits_of(model, x), label)
    found = distal(
        model, x, radius=radius, steps=settings.steps, seed=settings.seed, batch_size=IMAGES
    )
    there = Answers.from_logits(logits_of(model, found.point), label)
    return [
        AttemptTable.of_attempt(
            example=example, label=label, base=at_noise, defended=at_noise, seed=settings.seed
        ),
        AttemptTable.of_attempt(
            example=example,
            label=label,
            base=there,
            defended=there,
            attack=DISTAL,
            radius=radius,
            distance=size_of(found.point - x, "linf"),
            seed=settings.seed,
            gradient_steps=settings.steps,
        ),
    ]
