"""What follows from measurements: rates by arithmetic, and the sentence that names the bound."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from hcnn_fast.measurement import CostFigures, ModelWork, Observation, Outcome, Roofs

ROOFS = Roofs(
    flops_per_second=1e10, bytes_per_second=1e9, size=2048, copied_bytes=1 << 28, threads=1
)


def figures(
    *,
    outside: float | None = 0.1,
    flops: float = 1e6,
    traffic: float = 1e4,
    seconds: tuple[float, ...] = (3.0, 1.0, 2.0),
) -> CostFigures:
    """4 images, 1100 forward and 1000 backward passes in 2 s."""
    watched = Observation(
        outcome=Outcome(torch.tensor([0.2, 0.4, 0.6, 0.8]), 1100, 1000),
        seconds=2.0,
        model_seconds=None if outside is None else 2.0 * (1.0 - outside),
        unknown="one graph" if outside is None else "",
        batch=7,
        peak_memory=123,
        memory_kind="resident",
    )
    work = ModelWork(flops, flops, traffic, traffic, 7)
    return CostFigures(4, 2000, seconds, watched, work, ROOFS)


def test_rates_follow_from_the_median_round() -> None:
    found = figures().to_dict()
    expected = {
        "median_seconds": 2.0,
        "images_per_second": 2.0,
        "gradient_steps": 1000,
        "gradient_steps_per_second": 500.0,
        "microseconds_per_gradient_step": 2000.0,
        "asked_gradient_steps": 2000,
        "microseconds_per_asked_gradient_step": 1000.0,
        "share_outside_model": 0.1,
        "flops_per_second": 2100 * 1e6 / 2.0,
        "share_of_matrix_product_rate": 2100 * 1e6 / 2.0 / 1e10,
        "model_bytes_per_second": 2100 * 1e4 / 2.0,
        "share_of_copy_rate": 2100 * 1e4 / 2.0 / 1e9,
        "peak_memory_bytes": 123,
        "mean_confidence": 0.5,
        "largest_batch": 7,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_figures_are_plain_values_for_json() -> None:
    for one in (figures(), figures(outside=None)):
        assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == one.to_dict()


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ({"outside": 0.62}, "Python and small kernels outside the model take 62% of the time"),
        ({"flops": 6e6}, "take 90% of the time, at 70% of the matrix-product rate: arithmetic"),
        ({"traffic": 6e5, "flops": 1e6}, "read and write 70% of what a copy moves"),
        ({"traffic": 2e6, "flops": 6e6}, "memory bounds it"),
        ({}, "layers too small to fill the machine bound it"),
        ({"outside": None}, "What bounds it is unknown: one graph."),
    ],
)
def test_the_sentence_names_what_the_measurements_show(
    measured: dict[str, Any], sentence: str
) -> None:
    found = figures(**measured)
    assert sentence in found.bound()
    assert found.to_dict()["bound"] == found.bound()
    assert found.bound().count(".") == 1


def test_a_search_without_gradient_steps_has_rates_of_zero() -> None:
    idle = figures()
    watched = dataclasses.replace(idle.observation, outcome=Outcome(torch.tensor([0.5]), 1, 0))
    found = dataclasses.replace(idle, observation=watched).to_dict()
    assert found["gradient_steps_per_second"] == 0.0
    assert found["gradient_steps"] == 0
