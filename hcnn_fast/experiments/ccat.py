"""Confidence-calibrated adversarial training beside its rivals (Stutz et al. 2020; spec part B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hcnn_fast.evaluation import Proportion
from hcnn_fast.evaluation.side_by_side import (
    ComparisonRow,
    ccat_attack_rows,
    ccat_distal_rows,
    ccat_rows,
)
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.attempts import clean_rows
from hcnn_fast.experiments.ccat_attacks import STRONG, attempts
from hcnn_fast.experiments.ccat_claims import claims
from hcnn_fast.experiments.ccat_measures import TPR, Calibrated, measure
from hcnn_fast.experiments.claim import Claim
from hcnn_fast.experiments.experiment import Drawing, Evidence, Experiment, Findings, TextTable
from hcnn_fast.experiments.family import Family, Member, recipe_fields
from hcnn_fast.experiments.settings import Budget, Settings, Training
from hcnn_fast.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMAL, AT, CCAT = "normal", "AT", "CCAT"  # as `evaluation.published` calls them
DATA_NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}  # as `evaluation.published` calls them


def members(settings: Settings) -> tuple[Member, ...]:
    """Normal training, AT-50%, and CCAT, at the first of the radii, all else equal."""
    shared: dict[str, Any] = {**recipe_fields(settings), "batch_size": 100}
    attacked = {**shared, **recipe_fields(settings, settings.radii[0]), "attack_steps": 20}
    return (
        Member(NORMAL, Recipe(method="natural", **shared)),
        Member(AT, Recipe(method="at50", **attacked)),
        Member(CCAT, Recipe(method="ccat", **attacked)),
    )


def findings(found: Evidence) -> Findings:
    """Errors by threat, the strength of attacks, noise, small perturbations, and the claims."""
    models = {role: measure(table, found.held_out[role]) for role, table in found.tables.items()}
    data = DATA_NAMES.get(found.settings.data, found.settings.data)
    rows = (
        *ccat_rows(
            {
                (data, threat, role): numbers
                for role, model in models.items()
                for threat, numbers in model.threats.items()
            },
            differs=found.differs,
        ),
        *ccat_attack_rows(
            {
                (role, attack): metrics.robust_error_iclr
                for role, model in models.items()
                for attack, metrics in model.alone.items()
            },
            differs=found.differs,
        ),
        *ccat_distal_rows(
            {
                (data, kind, role): numbers
                for role, model in models.items()
                for kind, numbers in model.noise.items()
            },
            differs=found.differs,
        ),
    )
    checked = claims({role: model.threats for role, model in models.items()}, _noise(models))
    return Findings(
        tables=(
            _errors_table(models),
            _strength_table(models),
            _noise_table(models),
            _small_table(models),
            _claims_table(checked),
            _published_table(rows),
        ),
        reading=tuple(claim.sentence for claim in checked),
        numbers={
            "thresholds": {role: model.threshold for role, model in models.items()},
            "claims": [claim.to_dict() for claim in checked],
            "stratified": {
                role: [point.to_dict() for point in model.stratified]
                for role, model in models.items()
            },
            "side_by_side": [row.to_dict() for row in rows],
        },
        drawings=(
            Drawing(
                "errors",
                "Robust error of accepted answers, by threat, at the threshold that keeps 99% of"
                " the right answers to clean images; whiskers: exact 95% intervals.",
                lambda: _bars(models),
            ),
            Drawing(
                "small-perturbations",
                "Errors when rejecting a barely perturbed image counts as one, by the share of the"
                " radius that is barely; bands: exact 95% intervals.",
                lambda: _stratified(models),
            ),
            figures.confidence_drawing(found, found.settings.radii[0], {STRONG}),
        ),
    )


def _noise(models: Mapping[str, Calibrated]) -> dict[str, dict[str, Proportion]]:
    """False positive rates of noise, by training and kind."""
    return {
        role: {kind: rate for kind, (_, rate) in model.noise.items()}
        for role, model in models.items()
    }


def _errors_table(models: Mapping[str, Calibrated]) -> TextTable:
    lines = []
    for role, model in models.items():
        for place, (threat, (at_zero, at_tau, area)) in enumerate(model.threats.items()):
            clean = (role, f"{at_tau.threshold:.3f}", str(at_zero.error), str(at_tau.error))
            lines.append(
                (
                    *(clean if place == 0 else ("",) * len(clean)),
                    threat,
                    str(at_zero.robust_error_iclr),
                    str(at_tau.robust_error_iclr),
                    str(at_tau.robust_error_icml),
                    str(at_tau.robust_error_supremum),
                    str(at_tau.false_positive_rate),
                    str(area),
                )
            )
    return TextTable(
        title="Errors of accepted answers under each threat",
        columns=(
            "training",
            "tau",
            "Err, tau 0",
            "Err, tau",
            "threat",
            "RErr, tau 0",
            "RErr (ICLR)",
            "RErr (ICML)",
            "RErr (largest)",
            "FPR",
            "AUC",
        ),
        rows=tuple(lines),
        notes=(
            f"tau keeps {TPR:.0%} of the right answers to clean held-out images; no attack sees"
            " these. Each example counts by the OR of all attempts of the threat.",
            "Denominators: Err accepted clean images; RErr (ICLR) these and accepted wrong answers"
            " to rejected ones; RErr (ICML) images with anything accepted; FPR all attacked images."
            " The two forms of RErr are those of the paper's text and of its code.",
        ),
    )


def _strength_table(models: Mapping[str, Calibrated]) -> TextTable:
    attacks = next(iter(models.values())).alone
    return TextTable(
        title="The same ball, attack by attack: RErr (ICLR) at tau",
        columns=("attack", *models),
        rows=tuple(
            (attack, *(str(model.alone[attack].robust_error_iclr) for model in models.values()))
            for attack in attacks
        ),
        notes=("A weak attack flatters: the source's own ablation goes from 2.6% to 23%.",),
    )


def _noise_table(models: Mapping[str, Calibrated]) -> TextTable:
    return TextTable(
        title="Inputs that show no class: how many are accepted at tau",
        columns=("training", "input", "accepted (FPR)", "AUC"),
        rows=tuple(
            (role, kind, str(rate), str(area))
            for role, model in models.items()
            for kind, (area, rate) in model.noise.items()
        ),
    )


def _small_table(models: Mapping[str, Calibrated]) -> TextTable:
    points = next(iter(models.values())).stratified
    return TextTable(
        title="Errors when rejecting a barely perturbed image is one (Chen et al. 2023)",
        columns=("within this share of the radius", *models),
        rows=tuple(
            (f"{point.share:g}", *(str(model.stratified[at].error) for model in models.values()))
            for at, point in enumerate(points)
        ),
        notes=("Confidence that falls with distance by design rejects small perturbations.",),
    )


def _claims_table(checked: tuple[Claim, ...]) -> TextTable:
    return TextTable(
        title="The directions that the paper claims",
        columns=("claim", "measured", "here"),
        rows=tuple((claim.text, claim.because, claim.verdict) for claim in checked),
    )


def _published_table(rows: tuple[ComparisonRow, ...]) -> TextTable:
    printed: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.published is not None:
            parts = {name: str(part) for name, part in row.setting.items()}
            training = parts.pop("training")
            key = (" / ".join(parts.values()), row.quantity)
            printed.setdefault(key, {})[training] = row.published.printed
    trainings = list(dict.fromkeys(name for values in printed.values() for name in values))
    return TextTable(
        title="What the paper prints (ICLR 2020 text), in its own settings",
        columns=("setting", "quantity", *trainings),
        rows=tuple(
            (*key, *(values.get(name, "") for name in trainings)) for key, values in printed.items()
        ),
        notes=("Other data, networks and attacks: only directions can be compared.",),
    )


def _bars(models: Mapping[str, Calibrated]) -> Figure:
    threats = next(iter(models.values())).threats
    group = {
        threat: [model.threats[threat][1].robust_error_iclr for model in models.values()]
        for threat in threats
    }
    return figures.paired_bars({"at 99% TPR": group}, tuple(models), "RErr (ICLR)")


def _stratified(models: Mapping[str, Calibrated]) -> Figure:
    lines = [
        figures.Line(role, [p.share for p in model.stratified], [p.error for p in model.stratified])
        for role, model in models.items()
    ]
    return figures.curves(
        {"small perturbations": lines}, x_label="share of the radius", y_label="errors"
    )


CCAT_EXPERIMENT = Experiment(
    name="ccat",
    title="CCAT: does confidence that falls with distance tell attacks from images?",
    question="How many wrong answers are accepted under seen and unseen threats, at 99% TPR"
    " (Stutz et al. 2020, Tables 1 to 3)?",
    paper_radii=(0.030, 0.060),
    confidences=(),
    budget=Budget(points=1000, steps=1000, starts=10),
    small_budget=Budget(points=64, steps=20, starts=1),
    right_only=False,
    held_out=clean_rows,
    both_models=True,
    attempts=attempts,
    findings=findings,
    family=Family(members, Training(epochs=20)),
)
