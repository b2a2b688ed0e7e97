"""The stratified rejection curve against its definition, one example and attempt at a time."""

from __future__ import annotations

import math

import pytest
import torch
from attempt_tables import KINDS, Kind, random_table, rows_by_example

from hcnn_fast.evaluation import (
    AttemptTable,
    Proportion,
    robust_error,
    stratified_rejection,
    worst_case_outcomes,
)

SHARES = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.0, 1 / 3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("radius", [0.2, 0.3])
def test_curve_equals_its_definition(kind: Kind, threshold: float, radius: float) -> None:
    table = random_table(1, examples=60, kind=kind)
    found = stratified_rejection(
        table, "defended", threshold=threshold, radius=radius, shares=SHARES
    )
    for point in found:
        rejected = errors = 0
        for rows in rows_by_example(table, "defended").values():
            inside = [row for row in rows if row["clean"] or row["radius"] <= radius]
            near = [row for row in inside if row["distance"] <= point.share * radius]
            accepted = {id(r): r["answered"] and r["confidence"] >= threshold for r in inside}
            refused = any(not accepted[id(row)] for row in near)
            near_wrong = any(not row["right"] for row in near if row["answered"])
            broken = any(row["wrong"] and accepted[id(row)] for row in inside)
            rejected += refused
            errors += refused or broken
            assert refused or broken or not near_wrong  # "or wrong" of the definition adds nothing
        assert point.rejected == Proportion(rejected, 60)
        assert point.error == Proportion(errors, 60)
        assert point.radius == point.share * radius
    counts = [point.error.count for point in found]
    assert counts == sorted(counts)


def test_at_share_zero_only_the_rejection_of_the_clean_image_counts() -> None:
    table = random_table(4, examples=50)
    moved = AttemptTable(
        **(vars(table) | {"distance": torch.where(table.is_clean(), 0.0, table.radius)})
    )
    (point,) = stratified_rejection(moved, "base", threshold=0.5, radius=0.3, shares=[0.0])
    errors = robust_error(worst_case_outcomes(moved, "base"), 0.5)
    assert point.rejected == errors.clean_rejected
    assert point.error == errors.with_rejection_of_clean


def test_rejecting_everything_is_an_error_at_every_share() -> None:
    table = random_table(2, kind="all_right")
    for point in stratified_rejection(table, "base", threshold=math.inf, radius=0.3):
        assert point.error == Proportion(12, 12)
    for point in stratified_rejection(table, "base", threshold=0.0, radius=0.3):
        assert point.error == Proportion(0, 12)


def test_bad_arguments_are_refused_by_name() -> None:
    table = random_table(0)
    for arguments, message in (
        ({"threshold": -1.0, "radius": 0.3}, r"^threshold is -1"),
        ({"threshold": 0.5, "radius": 0.0}, r"^radius is 0"),
        ({"threshold": 0.5, "radius": 0.3, "shares": [1.5]}, r"^shares has 1.5"),
        ({"threshold": 0.5, "radius": 0.05}, "have no attempt"),
    ):
        with pytest.raises(ValueError, match=message):
            stratified_rejection(table, "base", **arguments)  # type: ignore[arg-type]  # float or list by name
    norms = tuple("l2" if name == "attack 1" else "linf" for name in table.attack)
    mixed = AttemptTable(**(vars(table) | {"norm": norms}))
    with pytest.raises(ValueError, match="table has the norms l2, linf, expected one"):
        stratified_rejection(mixed, "base", threshold=0.5, radius=0.3)
