"""Our measurements beside the papers' numbers, as plain rows that say how the settings differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hcnn_fast.evaluation.ccat import CcatMetrics
from hcnn_fast.evaluation.half_radius import HalfRadiusBound
from hcnn_fast.evaluation.intervals import Proportion
from hcnn_fast.evaluation.published import (
    CCAT_ATTACK_STRENGTH,
    CCAT_DISTAL,
    CCAT_ERRORS,
    RECOVERY,
    RECOVERY_SOURCE,
    REJECTION,
    SEPARATION,
    Key,
    Published,
    PublishedTable,
)
from hcnn_fast.evaluation.recovery import RecoveryTable
from hcnn_fast.evaluation.rejection import RejectionMetrics
from hcnn_fast.evaluation.robustness import RobustError
from hcnn_fast.evaluation.roc import AreaUnderCurve
from hcnn_fast.evaluation.separation import Separation

Measured = Proportion | AreaUnderCurve | float


@dataclass(frozen=True)
class ComparisonRow:
    """One quantity in one setting: ours, the paper's, or both.

    Attributes:
        table: what the row belongs to, such as "rejection".
        setting: what was measured on what, column by column.
        quantity: the name of the number.
        ours: measured here, with denominator and interval where it is a rate; None if not measured.
        published: the source's number; None if it states none.
        differs: how our setting differs from the source's (data, model, attack); empty only if it
            does not. Numbers of different settings are not to be compared as if they were one.
    """

    table: str
    setting: Mapping[str, str | float]
    quantity: str
    ours: Measured | None
    published: Published | None
    differs: str

    def __str__(self) -> str:
        setting = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        ours = "not measured" if self.ours is None else _text(self.ours)
        if self.published is None:
            return f"{setting}: {self.quantity} {ours}; not stated by the source"
        there = self.published
        other = f" in another setting ({self.differs})" if self.differs else ""
        source = f"{there.printed} [{there.tag}] {there.source}{other}"
        return f"{setting}: {self.quantity} {ours}; source: {source}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: n, value and interval of ours; value, source and tag of theirs."""
        if isinstance(self.ours, (Proportion, AreaUnderCurve)):
            ours: Any = self.ours.to_dict()
        else:
            ours = None if self.ours is None else {"value": self.ours}
        return {
            "table": self.table,
            "setting": dict(self.setting),
            "quantity": self.quantity,
            "ours": ours,
            "published": None if self.published is None else self.published.to_dict(),
            "differs": self.differs,
        }


def _text(value: Measured) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def comparison_rows(
    table: str,
    columns: Sequence[str],
    measured: Mapping[Key, Mapping[str, Measured]],
    published: PublishedTable,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Pair by setting and quantity: the source's rows in its order, then those of ours alone.

    Args:
        table: name of the table.
        columns: names of the parts of a key.
        measured: our quantities by setting.
        published: the source's.
        differs: how our setting differs from the source's; empty only if it does not.

    Raises:
        ValueError: a key with another number of parts than `columns`.
    """
    rows = []
    for key in dict.fromkeys((*published, *measured)):
        if len(key) != len(columns):
            raise ValueError(f"the key {key!r} has {len(key)} parts, expected {', '.join(columns)}")
        theirs, ours = published.get(key, {}), measured.get(key, {})
        rows += [
            ComparisonRow(
                table=table,
                setting=dict(zip(columns, key, strict=True)),
                quantity=quantity,
                ours=ours.get(quantity),
                published=theirs.get(quantity),
                differs=differs,
            )
            for quantity in dict.fromkeys((*theirs, *ours))
        ]
    return tuple(rows)


def separation_rows(
    measured: Mapping[str, Separation],  # by model
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Table 1 of Wu et al. 2018: hits, Chebyshev's and exact bounds, by model, radius and p.

    `Separation.direction` says which bounds hold for Pr[B]; print it with the table.
    """
    ours: dict[Key, dict[str, Measured]] = {}
    for model, found in measured.items():
        low, high = found.exact_bounds
        ours[model, found.radius, found.confidence] = {
            "hits": found.hits,
            "chebyshev_upper": float(found.chebyshev_upper),
            "chebyshev_lower": float(found.chebyshev_lower),
            "exact_upper": high,
            "exact_lower": low,
        }
    return comparison_rows("separation", ("model", "radius", "p"), ours, SEPARATION, differs)


def rejection_rows(
    measured: Mapping[tuple[str, float, str], RejectionMetrics],
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Tables 2 and 3 of Wu et al. 2018: AWPR without and with rejection, and recall.

    Args:
        measured: by (model, radius, threshold); thresholds are named "p = 0.9" as in the source, or
            for example "TPR 99%", for which the source has no number.
        differs: how our setting differs from the source's.
    """
    ours: dict[Key, dict[str, Measured]] = {key: {**vars(m)} for key, m in measured.items()}
    columns = ("model", "radius", "threshold")
    return comparison_rows("rejection", columns, ours, REJECTION, differs)


def recovery_rows(
    measured: Mapping[float, RecoveryTable],  # by radius of attack and search
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Table 4 of Wu et al. 2018: where the true class stands, and the rates derived from it."""
    ours: dict[Key, dict[str, Measured]] = {
        (radius,): {**_recovery_rates(table)} for radius, table in measured.items()
    }
    theirs: dict[Key, dict[str, Published]] = {}
    for radius, table in RECOVERY.items():
        theirs[radius,] = {
            name: Published(
                Fraction(rate.count, rate.total),
                f"{rate.count}/{rate.total}",
                RECOVERY_SOURCE,
                "S" if ", " in name else "A",
                rate.total,
            )
            for name, rate in _recovery_rates(table).items()
        }
    return comparison_rows("recovery", ("radius",), ours, theirs, differs)


def _recovery_rates(table: RecoveryTable) -> dict[str, Proportion]:
    """Every cell as a share of its column, then the derived rates."""
    rates = {}
    for name in ("label_change", "confidence_reduction"):
        column = getattr(table, name)
        for place, count in vars(column).items():
            rates[f"{name.replace('_', ' ')}, {place}"] = Proportion(count, column.total)
    for name in ("accuracy_before", "accuracy_after", "recovered", "broken", "within_two"):
        rates[name] = getattr(table, name)
    return rates


def robustness_rows(
    measured: Mapping[str, tuple[RobustError, RobustError]],  # by attack: base, defended
    *,
    radius: float,
    half_radius: HalfRadiusBound | None = None,
    gradient_steps: Mapping[str, float] | None = None,  # by classifier, for each image
) -> tuple[ComparisonRow, ...]:
    """What Table 4 leaves out: the worst case per image, base beside defended, attack by attack.

    The attacks' union belongs among them, under a name such as "union". The lower bound that exact
    MCN must reach at this radius and the cost of an answer come last.

    Raises:
        ValueError: `half_radius` is of another radius.
    """
    ours: dict[Key, dict[str, Measured]] = {}
    for attack, pair in measured.items():
        for classifier, found in zip(("base", "defended"), pair, strict=True):
            rates = {n: rate for n, rate in vars(found).items() if isinstance(rate, Proportion)}
            ours[radius, classifier, attack] = {**rates}
    if half_radius is not None:
        if not math.isclose(half_radius.radius, radius):
            raise ValueError(f"half_radius is of radius {half_radius.radius}, expected {radius}")
        kind = "lower bound" if half_radius.is_guarantee else "estimate of the lower bound"
        ours[radius, "exact MCN", "any"] = {f"robust accuracy, {kind}": half_radius.good}
    for classifier, steps in (gradient_steps or {}).items():
        ours[radius, classifier, "none"] = {"gradient steps for each image": float(steps)}
    return comparison_rows("robustness", ("radius", "classifier", "attack"), ours, {}, "")


def ccat_rows(
    measured: Mapping[tuple[str, str, str], tuple[CcatMetrics, CcatMetrics, AreaUnderCurve]],
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Table 2 of CCAT (ICLR 2020 text): errors at tau = 0 and at the calibrated tau, and the AUC.

    Args:
        measured: by (data, threat, training): the metrics at 0, those at tau, and the area.
        differs: how our setting differs from the source's.
    """
    ours: dict[Key, dict[str, Measured]] = {}
    for key, (at_zero, at_tau, area) in measured.items():
        values: dict[str, Measured] = {"auc": area, "tau": at_tau.threshold, "tpr": at_tau.tpr}
        for place, metrics in (("0", at_zero), ("tau", at_tau)):
            for name, rate in vars(metrics).items():
                if name not in ("threshold", "tpr"):
                    values[f"{name} at {place}"] = rate
        ours[key] = values
    columns = ("data", "threat", "training")
    return comparison_rows("ccat", columns, ours, CCAT_ERRORS, differs)


def ccat_attack_rows(
    measured: Mapping[tuple[str, str], Proportion],  # by (training, attack)
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Table 1 of CCAT: how much a weaker attack flatters, as RErr at the calibrated tau."""
    quantity = "robust_error_iclr at tau"
    ours: dict[Key, dict[str, Measured]] = {key: {quantity: m} for key, m in measured.items()}
    columns = ("training", "attack")
    return comparison_rows("ccat attacks", columns, ours, CCAT_ATTACK_STRENGTH, differs)


def ccat_distal_rows(
    measured: Mapping[tuple[str, str, str], tuple[AreaUnderCurve, Proportion]],
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """Table 3 of CCAT: AUC and FPR of inputs without a class, by (data, input, training)."""
    ours: dict[Key, dict[str, Measured]] = {
        key: {"auc": area, "false_positive_rate": rate} for key, (area, rate) in measured.items()
    }
    columns = ("data", "input", "training")
    return comparison_rows("ccat distal", columns, ours, CCAT_DISTAL, differs)


@dataclass(frozen=True)
class DisentanglingErrors:
    """Errors of one model of Stutz et al. 2019, whose figures give no digits to compare with.

    Attributes:
        error: test error.
        off_manifold: images with a successful regular attempt, of the correctly classified.
        off_manifold_attempts: successful attempts of all, the average over restarts of the code.
        on_manifold: images with a successful on-manifold attempt, of the correctly classified.
        on_manifold_attempts: successful attempts of all.
    """

    error: Proportion
    off_manifold: Proportion
    off_manifold_attempts: Proportion
    on_manifold: Proportion
    on_manifold_attempts: Proportion


def disentangling_rows(
    measured: Mapping[tuple[str, str, int, int], DisentanglingErrors],
) -> tuple[ComparisonRow, ...]:
    """The figures of Stutz et al. 2019 as numbers, by (training, manifold, images, seed)."""
    ours: dict[Key, dict[str, Measured]] = {key: {**vars(m)} for key, m in measured.items()}
    columns = ("training", "manifold", "training images", "seed")
    return comparison_rows("disentangling", columns, ours, {}, "")
