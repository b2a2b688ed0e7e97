"""Signs that a model hides its gradients: the diagnostics of Athalye et al. and Carlini et al."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.evaluation import (
    AttemptTable,
    MaskingMeasurements,
    MaskingReport,
    Proportion,
    masking_report,
)
from hcnn_fast.evaluation.outcomes import any_attempt
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.experiment import Drawing, Evidence, Experiment, Findings, TextTable
from hcnn_fast.experiments.masking_attacks import (
    MAIN,
    NO_GRADIENT,
    RANDOM,
    RAYS,
    RESTARTS,
    SCALES,
    SQUARE,
    TARGETED,
    attempts,
    diagnosed_radius,
    ladder,
    losses,
    pgd_name,
    step_counts,
    transfer_name,
)
from hcnn_fast.experiments.settings import Budget, Settings


def survivors(
    table: AttemptTable,
    attack: str,
    radius: float,
    restarts: int | None = None,
) -> Tensor:  # [N] bool
    """Points that are answered rightly in every row of an attack.

    Args:
        table: all rows.
        attack: its name.
        radius: its radius.
        restarts: count only what the first so many restarts found; None: all.
    """
    rows = torch.tensor([name == attack for name in table.attack]) & (table.radius == radius)
    if restarts is not None:
        rows &= table.restart < restarts
    return ~any_attempt(table, rows & ~table.base.right(table.label))


def measurements(table: AttemptTable, settings: Settings, classes: int) -> MaskingMeasurements:
    """Which points survive which attack, read from the rows."""
    radius, steps, starts = diagnosed_radius(settings), settings.steps, settings.starts
    by_loss: dict[str, Tensor] = {}
    for name in losses(classes):
        by_loss[name] = survivors(table, pgd_name(name, steps), radius)
    by_loss["every wrong class"] = survivors(table, TARGETED, radius)
    by_steps = {
        count: survivors(table, pgd_name(MAIN, count), radius) for count in step_counts(settings)
    }
    by_restarts = {
        count: survivors(table, RESTARTS, radius, count)
        for count in sorted({1, max(1, starts // 2), starts})
    }
    by_scale = {
        scale: survivors(table, pgd_name("cross_entropy", steps, scale), radius) for scale in SCALES
    }
    strong = [*by_loss.values(), *by_steps.values(), *by_restarts.values()]
    transferred = sorted({name for name in table.attack if name.startswith(transfer_name(""))})
    vanishing = torch.tensor([name == NO_GRADIENT for name in table.attack])  # [R]
    return MaskingMeasurements(
        by_steps=by_steps,
        by_restarts=by_restarts,
        by_radius={r: survivors(table, pgd_name(MAIN, steps), r) for r in ladder(settings)},
        by_loss=by_loss,
        by_logit_scale=by_scale,
        white_box=torch.stack(strong).all(0),
        black_box={name: survivors(table, name, radius) for name in (SQUARE, RAYS, RANDOM)},
        transfer={name: survivors(table, name, radius) for name in transferred},
        zero_gradient=any_attempt(table, vanishing),
        classes=classes,
    )


def findings(found: Evidence) -> Findings:
    """The report of `evaluation.masking`, its rates, and what was not looked for."""
    role, table = next(iter(found.tables.items()))
    measured = measurements(table, found.settings, found.classes)
    report = masking_report(measured)
    name, radius = found.names[role], diagnosed_radius(found.settings)
    points = len(torch.unique(table.example))
    return Findings(
        tables=(_signs_table(report, radius), _rates_table(report)),
        reading=_reading(name, report, radius),
        numbers={"model": name, "radius": radius, **report.to_dict()},
        drawings=(
            Drawing(
                "accuracy-radius",
                "Points that survive PGD, against its radius; at half of the range all images"
                " reach one grey image. Bands: exact 95% intervals.",
                lambda: figures.curves(
                    {
                        name: [
                            figures.Line(
                                pgd_name(MAIN, found.settings.steps),
                                (0.0, *measured.by_radius),
                                [
                                    Proportion(points, points),
                                    *map(_rate, measured.by_radius.values()),
                                ],
                            )
                        ]
                    },
                    x_label="l_inf radius",
                    y_label="points that survive",
                ),
            ),
            Drawing(
                "attacks",
                f"Points that survive, attack by attack, at radius {radius:g}; whiskers: exact 95%"
                " intervals.",
                lambda: figures.bars({name: _rates(measured)}, "points that survive"),
            ),
            figures.confidence_drawing(found, radius, {TARGETED}),
        ),
    )


def _rate(column: Tensor) -> Proportion:  # [N] bool
    return Proportion(int(column.sum()), len(column))


def _rates(measured: MaskingMeasurements) -> dict[str, Proportion]:
    """Survivors of every attack at the radius diagnosed."""
    columns: dict[str, Tensor] = {}
    for unit, group in (
        ("PGD, {} step(s)", measured.by_steps),
        ("PGD, {} restart(s)", measured.by_restarts),
        ("PGD on {}", measured.by_loss),
        ("PGD, logits times {}", measured.by_logit_scale),
        ("{}", measured.black_box),
        ("{}", measured.transfer),
    ):
        for key, column in group.items():
            columns[unit.format(f"{key:g}" if isinstance(key, float) else key)] = column
    if measured.white_box is not None:
        columns["all with gradients"] = measured.white_box
    return {name: _rate(column) for name, column in columns.items()}


def _signs_table(report: MaskingReport, radius: float) -> TextTable:
    lines = [
        (
            "FLAG" if finding.flagged else "ok",
            finding.name,
            finding.statement,
            str(finding.count),
            f"{finding.lower_bound:.1%}",
            f"{finding.tolerance:.1%}",
        )
        for finding in report.findings
    ]
    lines += [("--", name, "not measured", "", "", "") for name in report.not_measured]
    return TextTable(
        title=f"Signs of gradient masking at radius {radius:g}",
        columns=("", "sign", "points counted", "points", "at least", "tolerated"),
        rows=tuple(lines),
        notes=(
            "A sign is flagged where the exact one-sided 95% lower bound of its share (at least) is"
            " above what is tolerated. With few points only strong masking can be flagged: no flag"
            " is no all-clear, and what was not measured is none either.",
            "Points are those that the model gets right.",
        ),
    )


def _rates_table(report: MaskingReport) -> TextTable:
    signs: dict[tuple[tuple[str, str], ...], list[str]] = {}  # several may read the same rates
    for finding in report.findings:
        rates = tuple((attack, str(rate)) for attack, rate in finding.evidence.items())
        signs.setdefault(rates, []).append(finding.name)
    return TextTable(
        title="Points that survive, by what each sign compares",
        columns=("sign", "attack", "survive"),
        rows=tuple(
            (", ".join(names) if place == 0 else "", attack, rate)
            for rates, names in signs.items()
            for place, (attack, rate) in enumerate(rates)
        ),
    )


def _reading(name: str, report: MaskingReport, radius: float) -> tuple[str, ...]:
    total = report.findings[0].count.total
    said = []
    if report.flags:
        flags = ", ".join(finding.name for finding in report.flags)
        said.append(
            f"{name}: {len(report.flags)} of {len(report.findings)} signs are flagged at radius"
            f" {radius:g} ({flags}): do not trust a robustness measured with these attacks."
        )
    else:
        said.append(
            f"{name}: none of {len(report.findings)} signs is flagged at radius {radius:g} with"
            f" {total} points."
        )
    seen = [f for f in report.findings if f.count.count and not f.flagged]
    if seen:
        signs = ", ".join(f"{f.name} ({f.count.count})" for f in seen)
        said.append(f"Seen on single points, within what is tolerated or chance explains: {signs}.")
    if report.not_measured:
        said.append(f"Not looked for: {', '.join(report.not_measured)}.")
    return tuple(said)


MASKING = Experiment(
    name="masking",
    title="Masking: do attacks fail for want of gradients?",
    question="Does any weaker attack break points that a stronger one should have broken"
    " (Athalye et al. 2018, Carlini et al. 2019)?",
    paper_radii=(0.010, 0.020, 0.030),
    confidences=(),
    budget=Budget(points=1000, steps=100, starts=10),
    small_budget=Budget(points=128, steps=40, starts=4),
    right_only=True,
    held_out=None,
    both_models=False,
    attempts=attempts,
    findings=findings,
)
