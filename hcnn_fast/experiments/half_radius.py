"""What the half-radius lemma makes of the rejection rates of Wu et al. 2018, beside the base."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from hcnn_fast.evaluation import (
    HalfRadiusBound,
    Proportion,
    RejectionMetrics,
    half_radius_bound,
    half_radius_bound_from_rates,
)
from hcnn_fast.evaluation.published import REJECTION, Key, Published
from hcnn_fast.evaluation.side_by_side import ComparisonRow, comparison_rows
from hcnn_fast.experiments.beside import quantity_columns
from hcnn_fast.experiments.experiment import Evidence, TextTable

BOUND, BASE = "half_radius_bound", "base_at_half_radius"


def half_radius_bounds(found: Evidence) -> dict[Key, HalfRadiusBound]:
    """The bound for every model, radius of the attack and p; MCN's radius is half of it."""
    return {
        (role, radius, f"p = {p:g}"): half_radius_bound(
            table, "base", confidence=p, radius=radius / 2.0
        )
        for role, table in found.tables.items()
        for radius in found.settings.radii
        for p in found.settings.confidences
    }


def half_radius_rows(
    bounds: Mapping[Key, HalfRadiusBound],
    measured: Mapping[Any, RejectionMetrics],
    *,
    differs: str,
) -> tuple[ComparisonRow, ...]:
    """The bound beside the one that follows from the paper's rates, and what the base reaches.

    Args:
        bounds: by (model, radius of the attack, threshold).
        measured: rejection rates by the same; their AWPR at half the radius is the base's error.
        differs: how our setting differs from the source's.
    """
    ours: dict[Key, dict[str, Any]] = {key: {BOUND: each.good} for key, each in bounds.items()}
    for key, values in ours.items():
        half = _at_half_radius(measured, key)
        if half is not None:
            wrong = measured[half].awpr_original
            values[BASE] = Proportion(wrong.total - wrong.count, wrong.total)
    theirs: dict[Key, dict[str, Published]] = {}
    for key, rates in REJECTION.items():
        bound = half_radius_bound_from_rates(
            rates["recall"].value, rates["awpr_with_rejection"].value
        )
        theirs[key] = {BOUND: _derived(bound, rates["recall"].source)}
        half = _at_half_radius(REJECTION, key)
        if half is not None:
            wrong_rate = REJECTION[half]["awpr_original"]
            theirs[key][BASE] = _derived(1 - wrong_rate.value, wrong_rate.source)
    columns = ("model", "radius", "threshold")
    return comparison_rows("half radius", columns, ours, theirs, differs)


def half_radius_table(rows: tuple[ComparisonRow, ...], found: Evidence) -> TextTable:
    """The rows of `half_radius_rows`, the paper's beside ours."""
    return quantity_columns(
        "What the half-radius lemma leaves to exact MCN of half the radius, attacked within it",
        rows,
        found,
        {BOUND: "MCN right, at least", BASE: "base right there"},
        notes=(
            "Counted are points where the right class has confidence p when clean, and no wrong"
            " class reaches p within the radius. An attack looked for that class, so the share is"
            " itself an upper estimate of the bound, and no guarantee.",
            "Base: points without a wrong answer under the attack of half the radius, where that is"
            " one of those measured. Where it is the larger number, the lemma promises no gain.",
        ),
    )


def _at_half_radius(keys: Collection[Any], key: Key) -> Any | None:
    """The key of the same model and threshold at half the radius; None where there is none."""
    model, radius, threshold = key
    for other in keys:
        same = (other[0], other[2]) == (model, threshold)
        if same and math.isclose(2.0 * float(other[1]), float(radius)):
            return other
    return None


def _derived(value: Fraction, source: str) -> Published:
    return Published(value, f"{float(value):.1%}", source, "A")
