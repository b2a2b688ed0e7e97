"""Losses of adversarial training, their separation and what theory bounds it by (section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from hcnn_fast.attacks import pgd
from hcnn_fast.attacks.pgd import Objective
from hcnn_fast.evaluation import (
    AttemptTable,
    Proportion,
    Separation,
    concatenate,
    estimate_separation,
    paired_difference,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.outcomes import any_attempt
from hcnn_fast.evaluation.separation import DIRECTION, wrong_class_is_confident
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.attempts import RUNS, attack_rows, clean_rows, strengthened_rows
from hcnn_fast.experiments.experiment import (
    Drawing,
    Evidence,
    Experiment,
    Findings,
    TextTable,
    Work,
)
from hcnn_fast.experiments.family import Family, Member, recipe_fields
from hcnn_fast.experiments.settings import TRAINING_RADIUS, Budget, Settings, Training
from hcnn_fast.training import Recipe, wrong_confidence_bound
from hcnn_fast.training.losses import LossName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES: tuple[LossName, ...] = ("cross_entropy", "squared", "cw_f3", "cw_f6", "cw_f7")
# Every loss of the family rises with one of these: they need no attack of their own.
OBJECTIVES: tuple[Objective, ...] = ("log_odds", "margin")
EVERY_CLASS = "strengthened PGD"


def members(settings: Settings) -> tuple[Member, ...]:
    """A model for every loss, trained at the radius that is usual for the data, all else equal."""
    radius = TRAINING_RADIUS.get(settings.data, settings.radii[-1])
    return tuple(
        Member(
            loss,
            Recipe(
                loss=loss,
                attack_steps=5,
                validation_images=0,
                **recipe_fields(settings, radius),
            ),
        )
        for loss in LOSSES
    )


def loss_of(work: Work) -> LossName:
    """The loss that the model under test was trained with."""
    name = work.subject.role
    assert name in get_args(LossName), name
    return name  # type: ignore[return-value]  # one of them, as just seen


def attempts(work: Work) -> AttemptTable:
    """PGD on what every loss rises with, and every wrong class as confident as can be."""
    settings, loss = work.settings, loss_of(work)
    rows = [clean_rows(work, loss=loss)]
    for radius in settings.radii:
        for objective in OBJECTIVES:
            found = pgd(
                work.subject.model,
                work.x,
                work.y,
                radius=radius,
                steps=settings.steps,
                starts=settings.starts,
                objective=objective,
                seed=settings.seed,
                batch_size=RUNS,
            )
            rows.append(
                attack_rows(
                    work,
                    found.point,
                    attack=f"PGD on {objective}",
                    radius=radius,
                    gradient_steps=settings.starts * settings.steps,
                    loss=loss,
                )
            )
        rows.append(
            strengthened_rows(work, radius, attack=EVERY_CLASS, starts=settings.starts, loss=loss)
        )
    return concatenate(rows)


def worst_loss(table: AttemptTable, radius: float) -> float:
    """Mean over the points of the largest loss found in their balls, the point itself included.

    Raises:
        ValueError: a row without a loss.
    """
    near = table.select(up_to_radius=radius)
    if bool((near.loss < 0.0).any()):
        raise ValueError("loss is not measured in some row, expected one for every attempt")
    example, owner = torch.unique(near.example, return_inverse=True)  # [N], [R]
    largest = near.loss.new_zeros(len(example))  # [N]
    return float(largest.scatter_reduce(0, owner, near.loss, "amax").mean())


@dataclass(frozen=True)
class Measured:
    """One model at one radius.

    Attributes:
        worst_loss: see there; no attack finds the true mean, which is larger.
        clean, survive: points answered rightly, as they are and under every attempt.
        sure: by p, points answered rightly with confidence p or more, as they are.
        separation: by p.
        bound: by p, what the loss bounds the share of event B by, among what was found.
    """

    worst_loss: float
    clean: Proportion
    survive: Proportion
    sure: Mapping[float, Proportion]
    separation: Mapping[float, Separation]
    bound: Mapping[float, float]


def measured(found: Evidence) -> dict[tuple[str, float], Measured]:
    """Every model at every radius, by role and radius."""
    results = {}
    for role, table in found.tables.items():
        for radius in found.settings.radii:
            outcomes = worst_case_outcomes(table.select(up_to_radius=radius), "base")
            rho = worst_loss(table, radius)
            results[role, radius] = Measured(
                rho,
                _rate(outcomes.right),
                _rate(outcomes.survivors()),
                {p: _rate(_sure(table, p)) for p in found.settings.confidences},
                {
                    p: estimate_separation(table, "base", confidence=p, radius=radius)
                    for p in found.settings.confidences
                },
                {
                    p: wrong_confidence_bound(role, rho, p)  # type: ignore[arg-type]  # a loss
                    for p in found.settings.confidences
                },
            )
    return results


def _sure(table: AttemptTable, p: float) -> Tensor:  # [N] bool
    """Which points are answered rightly with confidence p or more, as they are."""
    right = table.base.right(table.label) & (table.base.confidence >= p)  # [R]
    return any_attempt(table, table.is_clean() & right)


def _rate(column: Tensor) -> Proportion:  # [N] bool
    return Proportion(int(column.sum()), len(column))


def findings(found: Evidence) -> Findings:
    """Separation of every model beside the bound of its loss."""
    results = measured(found)
    return Findings(
        tables=(_table(results, found.settings),),
        reading=_reading(results, found),
        numbers={
            "models": [
                {
                    "loss": role,
                    "radius": radius,
                    "worst_loss": result.worst_loss,
                    "clean": result.clean.to_dict(),
                    "survive": result.survive.to_dict(),
                    "separation": [
                        {
                            **separation.to_dict(),
                            "bound": result.bound[p],
                            "sure": result.sure[p].to_dict(),
                        }
                        for p, separation in result.separation.items()
                    ],
                }
                for (role, radius), result in results.items()
            ]
        },
        drawings=(
            Drawing(
                "separation",
                "Points near which some wrong class reaches p, by loss; whiskers: exact 95%"
                " intervals.",
                lambda: _bars(results),
            ),
            figures.confidence_drawing(found, found.settings.radii[-1], {EVERY_CLASS}),
        ),
    )


def _table(results: Mapping[tuple[str, float], Measured], settings: Settings) -> TextTable:
    lines = []
    for (role, radius), result in results.items():
        for place, (p, separation) in enumerate(result.separation.items()):
            first = (role, f"{radius:g}", str(result.clean), str(result.survive))
            lines.append(
                (
                    *(first if place == 0 else ("",) * len(first)),
                    f"{result.worst_loss:.3f}" if place == 0 else "",
                    f"{p:g}",
                    str(result.sure[p]),
                    str(separation.hits),
                    f"{result.bound[p]:.1%}",
                )
            )
    return TextTable(
        title="How often a wrong class is p-confident near a random point, and what the loss"
        " bounds that by",
        columns=(
            "loss",
            "radius",
            "right",
            "right under attack",
            "worst loss",
            "p",
            "right with p",
            "B found",
            "bound",
        ),
        rows=tuple(lines),
        notes=(
            "Worst loss: mean over the points of the largest loss found near them. Bound: that"
            " divided by the least loss of a point with a wrong class of confidence p (Wu et al."
            " 2018, proposition 1), at most 100%.",
            "The largest loss that an attack finds is below the true one, so this bound holds for"
            " what these attacks find and proves nothing about others.",
            "Right with p: points answered rightly with confidence p or more, as they are. Where"
            " there are none, a model that is never confident has no event B to show.",
            f"Event B: {DIRECTION['attack']}.",
            f"All attacks: {settings.steps} steps, {settings.starts} start(s).",
        ),
    )


def _reading(results: Mapping[tuple[str, float], Measured], found: Evidence) -> tuple[str, ...]:
    radius, p = found.settings.radii[-1], found.settings.confidences[0]
    at = {role: results[role, radius] for role in found.tables}
    said = [
        f"{role}: a wrong class of confidence {p:g} was found within {radius:g} of"
        f" {result.separation[p].hits} points; its loss bounds that by {result.bound[p]:.1%}."
        for role, result in at.items()
    ]
    unsure = [role for role, result in at.items() if not result.sure[p].count]
    if unsure:
        said.append(
            f"No right answer of {' and '.join(unsure)} has confidence {p:g}: that none of the"
            " wrong ones has is no separation."
        )
    hits = {role: _hit(table, radius, p) for role, table in found.tables.items()}
    sure = [role for role in hits if role not in unsure]
    for role in sure[1:]:
        first = sure[0]
        difference = paired_difference(hits[first], hits[role])
        verdict = {1: "more", -1: "fewer"}.get(difference.direction)
        if verdict:
            said.append(f"{role} has {verdict} of them than {first}, beyond chance: {difference}.")
        else:
            said.append(f"Between {role} and {first} no difference is shown: {difference}.")
    return tuple(said)


def _hit(table: AttemptTable, radius: float, p: float) -> Tensor:  # [N] bool
    return wrong_class_is_confident(table.select(up_to_radius=radius), "base", p)


def _bars(results: Mapping[tuple[str, float], Measured]) -> Figure:
    groups: dict[str, dict[str, Proportion]] = {}
    for (role, radius), result in results.items():
        for p, separation in result.separation.items():
            groups.setdefault(f"radius {radius:g}, p = {p:g}", {})[role] = separation.hits
    return figures.bars(groups, "points near which a wrong class reaches p")


LOSS_FAMILY = Experiment(
    name="loss-family",
    title="Loss family: does the loss of adversarial training decide how models separate?",
    question="How often is a wrong class confident near a point, for each loss of section 3, and"
    " how far is that below the bound that the loss gives (Wu et al. 2018, proposition 1)?",
    paper_radii=(0.030,),
    confidences=(0.9, 0.95, 0.99),
    budget=Budget(points=300, steps=100, starts=10),
    small_budget=Budget(points=64, steps=20, starts=1),
    right_only=False,
    held_out=None,
    both_models=True,
    attempts=attempts,
    findings=findings,
    family=Family(members, Training(epochs=10)),
)
