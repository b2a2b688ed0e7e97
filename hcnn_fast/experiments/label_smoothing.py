"""Does label smoothing make a model robust, or only hard to attack (Fu et al. 2020)?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnn_fast.evaluation import (
    AttemptTable,
    MaskingReport,
    PairedDifference,
    Proportion,
    concatenate,
    masking_report,
    paired_difference,
)
from hcnn_fast.evaluation.outcomes import any_attempt
from hcnn_fast.evaluation.published import LABEL_SMOOTHING as PUBLISHED
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.experiment import (
    Drawing,
    Evidence,
    Experiment,
    Findings,
    TextTable,
    Work,
)
from hcnn_fast.experiments.family import Family, Member, recipe_fields
from hcnn_fast.experiments.masking import measurements, survivors
from hcnn_fast.experiments.masking_attacks import (
    MAIN,
    SQUARE,
    TARGETED,
    diagnosed_radius,
    pgd_name,
    pgd_rows,
    transfer_name,
)
from hcnn_fast.experiments.masking_attacks import attempts as masking_attempts
from hcnn_fast.experiments.settings import Budget, Settings, Training
from hcnn_fast.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AMOUNTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
WEAK_STEPS = (1, 10)  # of PGD on the cross entropy, as weak evaluations run it
CLEAN, UNION = "clean", "all attacks"


def role_of(amount: float) -> str:
    """How a model of the family is called."""
    return f"smoothing {amount:g}"


def members(settings: Settings) -> tuple[Member, ...]:
    """A model for every amount, all else equal."""
    shared: dict[str, Any] = {**recipe_fields(settings), "validation_images": 0}
    return tuple(
        Member(
            role_of(amount),
            Recipe(method="label-smoothing", label_smoothing=amount, **shared)
            if amount
            else Recipe(method="natural", **shared),
        )
        for amount in AMOUNTS
    )


def attempts(work: Work) -> AttemptTable:
    """The attacks of the masking diagnostics, and PGD of few steps; transfer from no smoothing."""
    plain = tuple(other for other in work.others if other.role == role_of(0.0))
    radius = diagnosed_radius(work.settings)
    rows = [masking_attempts(replace(work, others=plain))]
    weaker = sorted({*WEAK_STEPS} - {work.settings.steps})
    rows += [pgd_rows(work, "cross_entropy", steps, radius) for steps in weaker]
    return concatenate(rows)


@dataclass(frozen=True)
class Smoothed:
    """What one model came to.

    Attributes:
        amount: a, the share of the target that is spread over all classes.
        confidence: mean confidence of its right answers to clean images; None where none is right.
        right: which of the N points each attack leaves right, by attack; under "clean" those that
            are right as they are.
        report: the signs of masking, on the points that are right as they are; None where none is.
    """

    amount: float
    confidence: float | None
    right: Mapping[str, Tensor]
    report: MaskingReport | None

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the signs that are flagged."""
        return () if self.report is None else tuple(sign.name for sign in self.report.flags)


def measured(found: Evidence) -> dict[str, Smoothed]:
    """Every model of the family, by role."""
    settings, radius = found.settings, diagnosed_radius(found.settings)
    names = {
        **{f"PGD-{steps}, cross entropy": pgd_name("cross_entropy", steps) for steps in WEAK_STEPS},
        f"PGD-{settings.steps}, cross entropy": pgd_name("cross_entropy", settings.steps),
        f"PGD-{settings.steps}, margin": pgd_name("margin", settings.steps),
        f"PGD-{settings.steps}, log odds": pgd_name(MAIN, settings.steps),
        f"PGD-{settings.steps}, every wrong class": TARGETED,
        "Square": SQUARE,
        "transfer from no smoothing": transfer_name(found.names[role_of(0.0)]),
    }
    results = {}
    for amount in AMOUNTS:
        table = found.tables[role_of(amount)]
        clean = table.is_clean()  # [R]
        good = clean & table.base.right(table.label)  # [R]
        right = {CLEAN: any_attempt(table, good)}  # [N] each
        for shown, attack in names.items():
            if attack in table.attack:
                right[shown] = survivors(table, attack, radius) & right[CLEAN]
        near = table.select(up_to_radius=radius)
        right[UNION] = ~any_attempt(near, near.base.wrong(near.label))
        confidence, report = None, None
        if bool(good.any()):
            confidence = float(table.base.confidence[good].mean())
            kept = torch.isin(table.example, torch.unique(table.example)[right[CLEAN]])  # [R]
            report = masking_report(measurements(table.take(kept), settings, found.classes))
        results[role_of(amount)] = Smoothed(amount, confidence, right, report)
    return results


def expected_confidence(amount: float, classes: int) -> float:
    """Confidence at the optimum of the smoothed cross entropy, 1 - a + a / C (spec D.1)."""
    return 1.0 - amount + amount / classes


def findings(found: Evidence) -> Findings:
    """Accuracy by attack and amount, what weak attacks promise, and what is left of it."""
    models = measured(found)
    radius, plain = diagnosed_radius(found.settings), models[role_of(0.0)]
    weak = f"PGD-{WEAK_STEPS[-1]}, cross entropy"
    promised = {
        role: paired_difference(plain.right[weak], model.right[weak])
        for role, model in models.items()
        if model is not plain
    }
    kept = {
        role: paired_difference(plain.right[UNION], model.right[UNION])
        for role, model in models.items()
        if model is not plain
    }
    return Findings(
        tables=(
            _accuracy_table(models, radius),
            _gain_table(promised, kept, weak),
            _masking_table(models, found.classes),
        ),
        reading=_reading(models, promised, kept, weak, radius),
        numbers={
            "radius": radius,
            "models": {
                role: {
                    "amount": model.amount,
                    "confidence": model.confidence,
                    "expected_confidence": expected_confidence(model.amount, found.classes),
                    "accuracy": {name: _rate(c).to_dict() for name, c in model.right.items()},
                    "masking": None if model.report is None else model.report.to_dict(),
                }
                for role, model in models.items()
            },
            "gain_under_weak_attack": {role: d.to_dict() for role, d in promised.items()},
            "gain_under_all_attacks": {role: d.to_dict() for role, d in kept.items()},
        },
        drawings=(
            Drawing(
                "accuracy-smoothing",
                f"Right answers by amount of smoothing, under each attack at radius {radius:g};"
                " bands: exact 95% intervals.",
                lambda: _curves(models, radius, weak),
            ),
            figures.confidence_drawing(found, radius, {TARGETED}),
        ),
    )


def _rate(column: Tensor) -> Proportion:  # [N] bool
    return Proportion(int(column.sum()), len(column))


def _accuracy_table(models: Mapping[str, Smoothed], radius: float) -> TextTable:
    attacks = [name for name in models[role_of(AMOUNTS[-1])].right]
    return TextTable(
        title=f"Right answers by attack at radius {radius:g}",
        columns=("attack", *models),
        rows=tuple(
            (attack, *(_cell(model.right.get(attack)) for model in models.values()))
            for attack in attacks
        ),
        notes=(
            "All models are measured on the same points, right or wrong when clean. All attacks:"
            " right when clean and after every attack within the radius, the others of the masking"
            " diagnostics included.",
            f"The study prints up to {PUBLISHED.printed} under PGD on CIFAR-10"
            f" [{PUBLISHED.tag}]; it is a maximum over settings that its abstract does not name.",
        ),
    )


def _cell(column: Tensor | None) -> str:  # [N] bool
    return "" if column is None else str(_rate(column))


def _gain_table(
    promised: Mapping[str, PairedDifference], kept: Mapping[str, PairedDifference], weak: str
) -> TextTable:
    return TextTable(
        title="Gain over no smoothing, on the same points",
        columns=("model", weak, UNION),
        rows=tuple((role, str(promised[role]), str(kept[role])) for role in promised),
        notes=("Points of percentage; intervals are exact and conservative (paired points).",),
    )


def _masking_table(models: Mapping[str, Smoothed], classes: int) -> TextTable:
    return TextTable(
        title="Signs of gradient masking, and the confidence that smoothing asks for",
        columns=("model", "flagged", "mean confidence when right", "1 - a + a / C"),
        rows=tuple(
            (
                role,
                ", ".join(model.flags) or "none",
                "no right answer" if model.confidence is None else f"{model.confidence:.3f}",
                f"{expected_confidence(model.amount, classes):.3f}",
            )
            for role, model in models.items()
        ),
        notes=(
            "A model with no flag may still be masked beyond what these attacks see; a threshold on"
            " the confidence above the last column would reject every answer of that model.",
        ),
    )


def _reading(
    models: Mapping[str, Smoothed],
    promised: Mapping[str, PairedDifference],
    kept: Mapping[str, PairedDifference],
    weak: str,
    radius: float,
) -> tuple[str, ...]:
    said = []
    best = max(promised, key=lambda role: promised[role].difference)
    said.append(
        f"Under {weak}, at radius {radius:g}, {best} gains {promised[best]}; under all attacks"
        f" {kept[best]}."
    )
    seeming = [role for role, gain in promised.items() if gain.direction > 0]
    for role in seeming:
        if kept[role].direction > 0:
            most = 100.0 * kept[role].interval[1]
            left = f"some of that is left under all attacks here (at most {most:.1f} points)"
        else:
            left = "under all attacks together no gain is shown"
        said.append(f"{role} looks robust to the weak attack beyond chance, and {left}.")
    if not seeming:
        said.append("So no gain of smoothing is shown here, not even under the weak attack.")
    transfer = "transfer from no smoothing"
    for role, model in models.items():
        if transfer in model.right:
            white = model.right[weak]
            worse = paired_difference(white, model.right[transfer])
            if worse.direction < 0:
                said.append(
                    f"{role}: fewer points survive what was made on the model without smoothing"
                    f" than survive {weak} on the model itself ({worse}): a sign of masking."
                )
    flagged = [role for role, model in models.items() if model.flags]
    if flagged:
        said.append(f"Masking is flagged for {', '.join(flagged)}.")
    else:
        said.append("Masking is flagged for none of the models.")
    return tuple(said)


def _curves(models: Mapping[str, Smoothed], radius: float, weak: str) -> Figure:
    shown = (CLEAN, weak, "transfer from no smoothing", "Square", UNION)
    lines = []
    for name in shown:
        some = [model for model in models.values() if name in model.right]
        amounts, rates = [m.amount for m in some], [_rate(m.right[name]) for m in some]
        lines.append(figures.Line(name, amounts, rates, band=name in (weak, UNION)))
    return figures.curves(
        {f"radius {radius:g}": lines}, x_label="smoothing a", y_label="right answers"
    )


LABEL_SMOOTHING = Experiment(
    name="label-smoothing",
    title="Label smoothing: robust, or only hard to attack?",
    question="Does the accuracy that label smoothing keeps under weak attacks survive stronger ones"
    " (Fu et al. 2020)?",
    paper_radii=(0.010,),
    confidences=(),
    budget=Budget(points=200, steps=100, starts=5),
    small_budget=Budget(points=64, steps=20, starts=2),
    right_only=False,
    held_out=None,
    both_models=True,
    attempts=attempts,
    findings=findings,
    family=Family(members, Training(epochs=10)),
)
