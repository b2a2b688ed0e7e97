"""The attacks on a defended model: made on the base, further out, through the search, and blind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hcnn_fast.attacks import (
    AttackResult,
    apgd_targeted,
    danskin_pgd,
    long_range,
    nes,
    pgd,
    rays,
    square,
    value_margin,
)
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.evaluation import Answers, AttemptTable, calibrated_threshold, concatenate
from hcnn_fast.evaluation.table import CLEAN, Classifier
from hcnn_fast.experiments.attempts import (
    IMAGES,
    RUNS,
    attack_rows,
    clean_rows,
    strengthened,
)
from hcnn_fast.experiments.experiment import Work
from hcnn_fast.experiments.settings import Settings

# A search has a radius, so what it answers on a clean image is a row of that radius.
ITSELF = "the point itself"
STRENGTHENED, MARGIN, APGD = "strengthened PGD", "PGD on margin", "APGD-T"
RESTARTED = "APGD-T on DLR, restarts"
LONG_RANGE, DANSKIN = "long-range", "Danskin-PGD"
SQUARE, RAYS, NES = "Square", "RayS", "NES"
REJECTION = "rejection"
HALF_RADIUS = "twice the radius"  # for the half-radius lemma alone

STATIC = (STRENGTHENED, MARGIN, APGD, RESTARTED)
BLACK_BOX = (SQUARE, RAYS, NES)
# What an attack on the defence aims at: a wrong answer, or one that passes the threshold as well.
GOALS: tuple[Literal["error", "accepted_error"], ...] = ("error", "accepted_error")
SHARES = (0.1, 0.5, 1.0)  # of the radius, within which an attack aims at rejection

TRUE_POSITIVE_RATE = 0.99
SEARCHED = 200  # held-out points at most that the search is asked about
QUERIES_A_STEP = 2  # of black-box attacks, for each step of those with gradients
PAIRS = 4  # of NES: its gradients of few queries
TARGETS_A_START = 3  # likeliest wrong classes aimed at, for each start
# Of APGD-T on DLR, for each start: some points fall from no more than a third of the starts, and
# then only chance decides which attack of one start finds them.
RESTARTS = 5
DLR_CLASSES = 4  # for fewer the targeted difference of logits ratio is not defined
INNER_STEPS = 10  # at most, of the search that an attack follows
NO_SEARCH = 1e-6  # search radius of a defence that answers as its base model


def aimed(attack: str, goal: str) -> str:
    """Name of the rows of an attack with a goal."""
    return attack if goal == GOALS[0] else f"{attack}, accepted"


def rejecting(classifier: Classifier, share: float) -> str:
    """Name of the rows of points that a classifier is to reject, within a share of the radius."""
    return f"{REJECTION} of {classifier} within {share:g}"


def at_radius(table: AttemptTable, radius: float) -> AttemptTable:
    """The attempts of one radius, with the answers of the search of that radius on clean points.

    The rows `ITSELF` become the clean ones: there the defence answers too.
    """
    itself = torch.tensor([name == ITSELF for name in table.attack])  # [R]
    beyond = torch.tensor([name in (CLEAN, HALF_RADIUS) for name in table.attack])
    kept = table.take((table.radius == radius) & ~beyond)
    clean = itself[(table.radius == radius) & ~beyond]  # [r]
    columns = {**vars(kept), "radius": kept.radius.masked_fill(clean, 0.0)}
    names = zip(kept.attack, clean.tolist(), strict=True)
    columns["attack"] = tuple(CLEAN if itself else name for name, itself in names)
    return AttemptTable(**columns)


def threshold_of(held_out: AttemptTable, classifier: Classifier, radius: float) -> float:
    """The confidence that keeps 99 % of the right answers on held-out points."""
    clean = at_radius(held_out, radius)
    answers = clean.answers(classifier)
    right = answers.right(clean.label)  # [H]
    return calibrated_threshold(answers.confidence, right, TRUE_POSITIVE_RATE)


def search_config(settings: Settings, radius: float) -> SearchConfig:
    """The defence: MCN over all labels."""
    return SearchConfig.mcn(radius, steps=settings.search_steps, batch_size=RUNS)


def held_out_rows(work: Work) -> AttemptTable:
    """Clean held-out points, the first of them with the answers of every search as well."""
    some = work.take(torch.arange(len(work.y), device=work.y.device) < SEARCHED)
    rows = [_itself(some, radius) for radius in work.settings.radii]
    return concatenate([clean_rows(work), *rows])


def attempts(work: Work) -> AttemptTable:
    """Every attack at every radius on every point, right or wrong; each scored by both models."""
    rows = [clean_rows(work)]
    for radius in work.settings.radii:
        rows += [*error_rows(work, radius), _beyond(work, radius), *_rejections(work, radius)]
    return concatenate(rows)


def error_rows(work: Work, radius: float) -> list[AttemptTable]:
    """The points themselves and all attacks that look for wrong answers, accepted or not."""
    return [
        _itself(work, radius),
        *_static(work, radius),
        *_through_search(work, radius),
        *_blind(work, radius),
    ]


def _defense(work: Work, radius: float, classifier: Classifier = "defended") -> Defense:
    """The defence with its threshold, or the base model with its own."""
    assert work.held_out is not None, "made before the chunks"
    config = search_config(work.settings, radius)
    if classifier == "base":
        config = config.replace(radius=NO_SEARCH, steps=1)
    threshold = threshold_of(work.held_out, classifier, radius)
    return Defense(work.subject.model, config, threshold)


def answered_rows(
    work: Work,
    point: Tensor,  # [n, *image]
    attack: str,
    radius: float,
    *,
    gradient_steps: int = 0,
    queries: int = 1,
    restart: int | Tensor = 0,
) -> AttemptTable:
    """What the model and its MCN of the same radius answer at some points."""
    config = search_config(work.settings, radius)
    logits = Defense(work.subject.model, config)(point)
    return attack_rows(
        work,
        point,
        attack=attack,
        radius=radius,
        gradient_steps=gradient_steps,
        queries=queries,
        restart=restart,
        defended=Answers.from_logits(logits, work.y),
    )


def _found(work: Work, found: AttackResult, attack: str, radius: float) -> AttemptTable:
    """Rows of a result, whose costs are spread evenly over the images."""
    return answered_rows(
        work,
        found.point,
        attack,
        radius,
        gradient_steps=share_of_image(work, found.gradient_steps),
        queries=share_of_image(work, found.queries),
        restart=found.attempt.cpu(),
    )


def share_of_image(work: Work, count: int) -> int:
    """The share of an image, rounded up."""
    return -(-count // max(len(work.y), 1))


def _itself(work: Work, radius: float) -> AttemptTable:
    return answered_rows(work, work.x, ITSELF, radius)


def _beyond(work: Work, radius: float) -> AttemptTable:
    """Every wrong class of the base as confident as can be within twice the radius."""
    found = strengthened(work, 2.0 * radius, starts=work.settings.starts)
    return attack_rows(
        work,
        found.point,
        attack=HALF_RADIUS,
        radius=2.0 * radius,
        gradient_steps=share_of_image(work, found.gradient_steps),
    )


def _static(work: Work, radius: float) -> list[AttemptTable]:
    """The base model's own attacks, which know of no search."""
    model, effort = work.subject.model, _effort(work.settings, radius)
    found = {
        STRENGTHENED: strengthened(work, radius, starts=work.settings.starts),
        MARGIN: pgd(model, work.x, work.y, objective="margin", **effort),
        APGD: apgd_targeted(model, work.x, work.y, objective="margin", **effort),
        RESTARTED: apgd_targeted(
            model,
            work.x,
            work.y,
            objective="dlr" if work.classes >= DLR_CLASSES else "margin",
            targets=likeliest_targets(work),
            **{**effort, "starts": RESTARTS * work.settings.starts},
        ),
    }
    return [_found(work, result, name, radius) for name, result in found.items()]


def _effort(settings: Settings, radius: float) -> dict[str, Any]:
    """What all attacks with gradients share."""
    return {
        "radius": radius,
        "steps": settings.steps,
        "starts": settings.starts,
        "seed": settings.seed,
        "batch_size": RUNS,
    }


def likeliest_targets(work: Work) -> int:
    """How many wrong classes are aimed at."""
    return min(work.classes - 1, TARGETS_A_START * work.settings.starts)


def _through_search(work: Work, radius: float) -> list[AttemptTable]:
    """Attacks that know the search: by where it can reach, and by the gradient through it."""
    settings, defense = work.settings, _defense(work, radius)
    effort = {
        **_effort(settings, radius),
        "targets": likeliest_targets(work),
    }
    inner = _inner_steps(settings)
    rows = []
    for goal in GOALS:
        far = long_range(defense, work.x, work.y, goal=goal, **effort)
        climbed = danskin_pgd(defense, work.x, work.y, inner_steps=inner, goal=goal, **effort)
        rows += [
            _found(work, far, aimed(LONG_RANGE, goal), radius),
            _found(work, climbed, aimed(DANSKIN, goal), radius),
        ]
    return rows


def _inner_steps(settings: Settings) -> int:
    return min(INNER_STEPS, max(1, settings.search_steps // 2))


def _blind(work: Work, radius: float) -> list[AttemptTable]:
    """Attacks that ask the whole defence: for its values, its labels, its values' slopes."""
    settings, defense = work.settings, _defense(work, radius)
    queries = QUERIES_A_STEP * settings.steps
    shared: dict[str, Any] = {"radius": radius, "seed": settings.seed, "batch_size": IMAGES}

    def labels(z: Tensor) -> Tensor:  # [n, *image] -> [n], -1 where rejected
        label: Tensor = defense.predict(z).label
        return label

    asked: dict[str, Callable[[], AttackResult]] = {
        SQUARE: lambda: square(
            defense, work.x, work.y, queries=queries, objective=value_margin(defense), **shared
        ),
        RAYS: lambda: rays(labels, work.x, work.y, queries=queries, **shared),
        NES: lambda: nes(
            defense,
            work.x,
            work.y,
            steps=max(1, queries // (2 * PAIRS + 1)),
            pairs=PAIRS,
            objective=value_margin(defense, "accepted_error"),
            **shared,
        ),
    }
    return [_found(work, ask(), name, radius) for name, ask in asked.items()]


def _rejections(work: Work, radius: float) -> list[AttemptTable]:
    """Points as near as a share of the radius that are to be rejected, though nothing is wrong."""
    settings, rows = work.settings, []
    classifiers: tuple[Classifier, ...] = ("base", "defended")
    for classifier in classifiers:
        defense = _defense(work, radius, classifier)
        for share in SHARES:
            found = danskin_pgd(
                defense,
                work.x,
                work.y,
                inner_steps=_inner_steps(settings),
                goal="rejection",
                **_effort(settings, share * radius),
            )
            rows.append(_found(work, found, rejecting(classifier, share), radius))
    return rows
