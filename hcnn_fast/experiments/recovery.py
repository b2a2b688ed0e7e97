"""Table 4 of Wu et al. 2018: what MCN's search makes of targeted adversarial points."""

from __future__ import annotations

import torch

from hcnn_fast.config import SearchConfig
from hcnn_fast.evaluation import (
    Answers,
    AttemptTable,
    Proportion,
    RecoveryTable,
    RobustError,
    concatenate,
    label_ranks,
    recovery_table,
    robust_error,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.side_by_side import recovery_rows, robustness_rows
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.attempts import RUNS, attack_rows, clean_rows
from hcnn_fast.experiments.beside import quantity_rows
from hcnn_fast.experiments.experiment import (
    Drawing,
    Evidence,
    Experiment,
    Findings,
    TextTable,
    Work,
)
from hcnn_fast.experiments.settings import Budget
from hcnn_fast.search import search

# The search has a radius, so what it answers on a clean image is an attempt of that radius.
TARGETED, ITSELF = "targeted", "the point itself"

QUANTITIES = {
    "label change, first": "label changed: right class first",
    "label change, second": "label changed: second",
    "label change, other": "label changed: other",
    "label change, missing": "label changed: missing",
    "confidence reduction, first": "confidence lowered: right class first",
    "confidence reduction, second": "confidence lowered: second",
    "confidence reduction, other": "confidence lowered: other",
    "confidence reduction, missing": "confidence lowered: missing",
    "accuracy_before": "right before MCN",
    "accuracy_after": "right after MCN",
    "recovered": "recovered, of label changes",
    "broken": "broken, of the others",
    "within_two": "right class among the first two",
}


def attempts(work: Work) -> AttemptTable:
    """For every wrong class the point where it is most confident, and MCN's answers there."""
    settings = work.settings
    rows = [clean_rows(work)]
    for radius in settings.radii:
        attack = SearchConfig.mcn(radius, steps=settings.steps, batch_size=RUNS, keep_points=True)
        found = search(work.subject.model, work.x, attack).label_point  # [n, C, *image]
        assert found is not None, "kept by keep_points"
        rows.append(_searched(work, work.x, ITSELF, radius))
        for target in range(work.classes):
            wrong = work.y != target  # [n]
            if bool(wrong.any()):
                point = found[wrong, target]  # [m, *image]
                rows.append(_searched(work.take(wrong), point, TARGETED, radius, target))
    return concatenate(rows)


def _searched(
    work: Work,
    point: torch.Tensor,  # [n, *image]
    attack: str,
    radius: float,
    target: int = -1,
) -> AttemptTable:
    """Rows of points with the answers of MCN, and the place of the true class in its search."""
    config = SearchConfig.mcn(radius, steps=work.settings.search_steps, batch_size=RUNS)
    result = search(work.subject.model, point, config)
    return attack_rows(
        work,
        point,
        attack=attack,
        radius=radius,
        target=target,
        gradient_steps=0 if attack == ITSELF else work.settings.steps,
        defended=Answers.from_logits(result.logits, work.y),
        label_rank=label_ranks(result.label_confidence, result.label_prediction, work.y),
    )


def findings(found: Evidence) -> Findings:
    """Places of the true class and what is derived from them, and the worst case of each point."""
    settings = found.settings
    role, table = next(iter(found.tables.items()))
    measured: dict[float, RecoveryTable] = {}
    worst: dict[float, dict[str, tuple[RobustError, RobustError]]] = {}
    for radius in settings.radii:
        targeted = table.select(attacks=[TARGETED], radius=radius)
        measured[radius] = recovery_table(targeted)
        both = table.select(attacks=[TARGETED, ITSELF], radius=radius)
        itself = table.select(attacks=[ITSELF], radius=radius)
        worst[radius] = {name: _errors(some) for name, some in (("clean", itself), ("all", both))}
    rows = recovery_rows(measured, differs=found.differs)
    tables = (
        quantity_rows(
            "Place of the right class among the points of MCN's search (attack and search radius"
            " alike)",
            rows,
            found,
            QUANTITIES,
            notes=(
                "Counted are attempts, one for each point and wrong class. Each run climbs the log"
                " probability of one class from the point itself, without random starts, with"
                " decaying steps and momentum; the paper names neither step size nor loss.",
                f"Attack {settings.steps} steps, search {settings.search_steps} for each class"
                " (paper: 1000 and 500).",
            ),
        ),
        _worst_table(worst),
    )
    return Findings(
        tables=tables,
        reading=tuple(
            sentence
            for radius in settings.radii
            for sentence in _reading(radius, measured[radius], worst[radius]["all"])
        ),
        numbers={
            "model": role,
            "recovery": [
                {"radius": radius, **recovered.to_dict()} for radius, recovered in measured.items()
            ],
            "worst_case": [
                row.to_dict()
                for radius, errors in worst.items()
                for row in robustness_rows(
                    errors,
                    radius=radius,
                    gradient_steps={
                        "base": 0.0,
                        "defended": float(found.classes * settings.search_steps),
                    },
                )
            ],
            "side_by_side": [row.to_dict() for row in rows],
        },
        drawings=(
            Drawing(
                "accuracy",
                "Right answers over attempts, and points of which no attempt gets a wrong one;"
                " whiskers: exact 95% intervals.",
                lambda: figures.bars(
                    {
                        f"radius {radius:g}": {
                            "attempts, before MCN": measured[radius].accuracy_before,
                            "attempts, after MCN": measured[radius].accuracy_after,
                            "every attempt of a point, before": _never(worst[radius]["all"][0]),
                            "every attempt of a point, after": _never(worst[radius]["all"][1]),
                        }
                        for radius in settings.radii
                    },
                    "right answers",
                ),
            ),
            figures.confidence_drawing(found, settings.radii[-1], {TARGETED}),
        ),
    )


def _errors(table: AttemptTable) -> tuple[RobustError, RobustError]:
    """Worst cases of each point under the base classifier and under MCN."""
    base, defended = (worst_case_outcomes(table, c) for c in ("base", "defended"))
    return robust_error(base, 0.0), robust_error(defended, 0.0)


def _never(error: RobustError) -> Proportion:
    wrong = error.without_rejection
    return Proportion(wrong.total - wrong.count, wrong.total)


def _worst_table(worst: dict[float, dict[str, tuple[RobustError, RobustError]]]) -> TextTable:
    lines = []
    for radius, errors in worst.items():
        for place, name in enumerate(("base", "MCN")):
            clean, attacked = _never(errors["clean"][place]), _never(errors["all"][place])
            lines.append((f"{radius:g}", name, str(clean), str(attacked)))
    return TextTable(
        title="Point by point: right on the clean image and under every targeted attempt",
        columns=("radius", "classifier", "right when clean", "right under every attempt"),
        rows=tuple(lines),
        notes=(
            "The paper does not report this. Points are those that the base model gets right.",
            "The attempts are made on the base model and do not know the search: for MCN this is a"
            " static evaluation, and an attack on the whole defence can only do better.",
        ),
    )


def _reading(
    radius: float, recovered: RecoveryTable, worst: tuple[RobustError, RobustError]
) -> tuple[str, ...]:
    changed = recovered.recovered
    base, mcn = (_never(error) for error in worst)
    return (
        f"Radius {radius:g}: {changed.total} of {recovered.total} targeted attempts change the"
        f" label. MCN answers {changed.count} of these rightly, and {recovered.broken.count} of"
        f" the {recovered.broken.total} others wrongly: a net change of {recovered.net_gain:+d}.",
        f"Point by point the base model is right under every attempt on {base.count} of"
        f" {base.total} points, MCN on {mcn.count}. This says nothing about attacks that know of"
        " the search.",
    )


RECOVERY = Experiment(
    name="recovery",
    title="Recovery: does the most confident neighbour undo an attack?",
    question="Where does the right class stand among the points of MCN's search around targeted"
    " adversarial points (Wu et al. 2018, Table 4)?",
    paper_radii=(0.010, 0.015),
    confidences=(),
    budget=Budget(points=1000, steps=1000, starts=1, search_steps=500),
    small_budget=Budget(points=64, steps=40, starts=1, search_steps=20),
    right_only=True,
    held_out=None,
    both_models=False,
    attempts=attempts,
    findings=findings,
)
