"""Our attacks beside those of other libraries, point by point: what did only they find?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hcnn_fast.evaluation import AttemptTable, Proportion, acceptance
from hcnn_fast.evaluation.table import CLEAN, Classifier
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.adaptive_attacks import (
    BLACK_BOX,
    DANSKIN,
    GOALS,
    LONG_RANGE,
    STATIC,
    aimed,
    at_radius,
)
from hcnn_fast.experiments.experiment import Drawing, Evidence, Experiment, Findings, TextTable
from hcnn_fast.experiments.peer_attacks import (
    VICTIMS,
    attempts,
    clipped_points,
    held_out,
    made_on,
)
from hcnn_fast.experiments.peer_libraries import PEERS
from hcnn_fast.experiments.settings import Budget

NOTHING, OURS, THEIRS = "none (clean)", "our union", "their union"
ON_DEFENCE = {  # ours on the defence, by the names of their rows
    **{name: tuple(aimed(name, goal) for goal in GOALS) for name in (LONG_RANGE, DANSKIN)},
    **{name: (name,) for name in BLACK_BOX},
}
SHOWN: Mapping[Classifier, str] = {"base": "base", "defended": "MCN"}

Rows = Mapping[Classifier, Collection[str]]  # names of the rows that count against a classifier


def attack_groups() -> dict[str, Rows]:
    """Attacks by the names of their rows, for each classifier.

    Against the base count attacks that were made on it; against its MCN those made on either.
    """
    groups: dict[str, Rows] = {NOTHING: {"base": (), "defended": ()}}
    groups |= {name: {"base": (name,), "defended": (name,)} for name in STATIC}
    groups |= {name: {"defended": rows} for name, rows in ON_DEFENCE.items()}
    ours = [row for rows in ON_DEFENCE.values() for row in rows]
    groups[OURS] = {"base": STATIC, "defended": (*STATIC, *ours)}
    for name in PEERS:
        groups[name] = {victim: (made_on(name, victim),) for victim in VICTIMS}
    on_base = [made_on(name, "base") for name in PEERS]
    on_both = [*on_base, *(made_on(name, "defended") for name in PEERS)]
    groups[THEIRS] = {"base": on_base, "defended": on_both}
    return groups


@dataclass(frozen=True, kw_only=True)
class PeerOutcome:
    """What one radius shows.

    Attributes:
        errors: points with a wrong answer, clean or in an attempt, by attack and classifier.
        gradient_steps: of an attack on a classifier for an image on average, by the same.
        queries: points that it asked about, likewise; 0 where they are not counted.
        only_theirs: ids of the points that other libraries alone found an error for.
        only_ours: ids of those that our attacks alone did.
    """

    errors: Mapping[str, Mapping[Classifier, Proportion]]
    gradient_steps: Mapping[str, Mapping[Classifier, int]]
    queries: Mapping[str, Mapping[Classifier, int]]
    only_theirs: Mapping[Classifier, tuple[int, ...]]
    only_ours: Mapping[Classifier, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "attacks": {
                attack: {
                    name: {
                        "errors": rate.to_dict(),
                        "gradient_steps": self.gradient_steps[attack][name],
                        "queries": self.queries[attack][name],
                    }
                    for name, rate in rates.items()
                }
                for attack, rates in self.errors.items()
            },
            "only_theirs": {name: list(ids) for name, ids in self.only_theirs.items()},
            "only_ours": {name: list(ids) for name, ids in self.only_ours.items()},
        }


def outcome_at(table: AttemptTable, radius: float) -> PeerOutcome:
    """Read one radius from the rows of `peer_attacks`."""
    here = at_radius(table, radius)
    example = torch.unique(here.example)  # [N] in the order of all columns below
    wrong: dict[str, dict[Classifier, torch.Tensor]] = {}  # [N] bool
    costs: dict[str, dict[str, dict[Classifier, int]]] = {"gradient_steps": {}, "queries": {}}
    for attack, names in attack_groups().items():
        wrong[attack] = {}
        for cost in costs.values():
            cost[attack] = {}
        for name, rows in names.items():
            some = here.select(attacks=rows)
            wrong[attack][name] = acceptance(some, name).wrong
            attacked = torch.tensor([row != CLEAN for row in some.attack])  # [r]
            for column, cost in costs.items():
                spent = int(getattr(some, column)[attacked].sum())
                cost[attack][name] = round(spent / len(example))

    def alone(one: str, other: str) -> dict[Classifier, tuple[int, ...]]:
        return {
            name: tuple(example[wrong[one][name] & ~wrong[other][name]].tolist())
            for name in VICTIMS
        }

    return PeerOutcome(
        errors={
            attack: {
                name: Proportion(int(column.sum()), len(column)) for name, column in its.items()
            }
            for attack, its in wrong.items()
        },
        gradient_steps=costs["gradient_steps"],
        queries=costs["queries"],
        only_theirs=alone(THEIRS, OURS),
        only_ours=alone(OURS, THEIRS),
    )


def findings(found: Evidence) -> Findings:
    """Errors by attack, ours and theirs, and the points that only one side found."""
    ((role, table),) = found.tables.items()
    outcomes = {radius: outcome_at(table, radius) for radius in found.settings.radii}
    return Findings(
        tables=(_errors_table(outcomes, found), _difference_table(outcomes, table)),
        reading=tuple(s for radius, its in outcomes.items() for s in reading(radius, its)),
        numbers={
            "model": found.names[role],
            "search_gradient_steps": found.classes * found.settings.search_steps,
            "clipped": clipped_points(table),
            "radii": [{"radius": radius, **its.to_dict()} for radius, its in outcomes.items()],
        },
        drawings=tuple(
            Drawing(
                f"errors-{name}",
                f"Points for which an attack finds a wrong answer of {shown}, ours above and those"
                " of other libraries below; whiskers: exact 95% intervals.",
                lambda name=name: figures.bars(  # type: ignore[misc]  # bound to this name
                    {
                        f"radius {radius:g}": {
                            attack: rates[name]
                            for attack, rates in its.errors.items()
                            if name in rates
                        }
                        for radius, its in outcomes.items()
                    },
                    "points with a wrong answer",
                ),
            )
            for name, shown in SHOWN.items()
        ),
    )


def reading(radius: float, its: PeerOutcome) -> tuple[str, ...]:
    """What the numbers of one radius say."""
    said = []
    for name, shown in SHOWN.items():
        ours, theirs = (its.errors[union][name] for union in (OURS, THEIRS))
        missed, more = its.only_theirs[name], its.only_ours[name]
        verdict = (
            f"Our union missed {len(missed)} that another library found (points"
            f" {', '.join(map(str, missed))}): it is too weak there."
            if missed
            else f"Nothing that another library found was missed; {len(more)} only ours found."
        )
        said.append(
            f"Radius {radius:g}, {shown}: our union finds a wrong answer for {ours.count} of"
            f" {ours.total} points, all other libraries together for {theirs.count}. {verdict}"
        )
    return tuple(said)


def _errors_table(outcomes: Mapping[float, PeerOutcome], found: Evidence) -> TextTable:
    lines = []
    for radius, its in outcomes.items():
        for attack, rates in its.errors.items():
            cells = [f"{radius:g}", attack]
            for name in VICTIMS:
                steps, queries = (
                    f"{each[attack][name]:,}" if each[attack].get(name) else ""
                    for each in (its.gradient_steps, its.queries)
                )
                cells += [str(rates[name]) if name in rates else "", steps, queries]
            lines.append(tuple(cells))
    search = found.classes * found.settings.search_steps
    return TextTable(
        title="Points with a wrong answer, clean or attacked (attack and search radius alike)",
        columns=(
            "radius",
            "attack",
            *(
                heading
                for shown in SHOWN.values()
                for heading in (f"{shown}: errors found", "gradient steps", "queries")
            ),
        ),
        rows=tuple(lines),
        notes=(
            "An error on the clean image counts as one. Every point is scored by our own cold model"
            " and defence, whoever made it.",
            "Against the base count the attacks made on it; the unions against MCN have those made"
            " on either.",
            "Gradient steps are image passes backward of the attacker, queries passes forward, for"
            " an image on average, as counted; libraries stop at images that they have broken."
            " Ours count queries only where they ask the whole defence."
            f" A query of MCN is a search, of {search:,} gradient steps more.",
        ),
    )


def _difference_table(outcomes: Mapping[float, PeerOutcome], table: AttemptTable) -> TextTable:
    lines = [
        (
            f"{radius:g}",
            shown,
            str(its.errors[OURS][name].total),
            *(
                f"{len(ids)}" + (f": {', '.join(map(str, ids))}" if ids else "")
                for ids in (its.only_theirs[name], its.only_ours[name])
            ),
        )
        for radius, its in outcomes.items()
        for name, shown in SHOWN.items()
    ]
    return TextTable(
        title="Points that only one side found an error for, by their places in the data",
        columns=("radius", "classifier", "n", "only another library", "only ours"),
        rows=tuple(lines),
        notes=(
            f"{clipped_points(table)} points of other libraries were clipped to ball and bounds,"
            " which rounding had put them outside of.",
        ),
    )


PEERS_EXPERIMENT = Experiment(
    name="peers",
    title="Peers: do other libraries find errors that our attacks miss?",
    question="Which points do Foolbox, torchattacks, ART and AutoAttack break, on the base and on"
    " its MCN, that the union of our attacks does not, on the same points and radius?",
    paper_radii=(0.010, 0.015),
    confidences=(),
    budget=Budget(points=64, steps=50, starts=1, search_steps=50),
    small_budget=Budget(points=16, steps=8, starts=1, search_steps=8),
    right_only=False,
    held_out=held_out,
    both_models=False,
    attempts=attempts,
    findings=findings,
)
