"""One step of backtracking ascent: by hand, and every backend equal to the reference to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from backtracking_arguments import WRITTEN, backtracking_arguments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend, fast_backend
from op_differences import identical
from step_arguments import Arguments, duplicate
from torch import Tensor

from hcnn_fast import ops

SHAPES = {  # rows, one image
    "one-value": (1, (1,)),
    "odd": (3, (7,)),
    "image": (5, (3, 5, 7)),
    "blocks": (4, (3, 33, 33)),
    "many-rows": (700, (13,)),
    "no-rows": (0, (3, 4, 4)),
}
INTERPRETED_ROWS = {"many-rows": 5, "blocks": 2}  # of triton


def state(device: torch.device, *, value: float, best_value: float) -> Arguments:
    """One candidate in the plane, whose image is the middle of the unit square."""

    def row(*numbers: float) -> Tensor:
        return torch.tensor([numbers], dtype=torch.float64, device=device)

    return {
        "proposal": row(0.5, 0.75),
        "gradient": row(-3.0, 0.0),
        "point": row(0.5, 0.5),
        "value": row(value)[0],
        "uphill": row(1.0, 1.0),
        "average": row(0.5, -0.5),
        "step_size": row(0.25)[0],
        "image": row(0.5, 0.5),
        "image_index": torch.zeros(1, dtype=torch.int64, device=device),
        "radius": 0.375,
        "bounds": (0.0, 1.0),
        "momentum": 0.5,
        "backtracking": 2.0,
        "best": row(0.25, 0.25),
        "best_value": row(best_value)[0],
    }


def after(arguments: Arguments, reached: float, backend: str, **changes: Any) -> dict[str, Any]:
    """What is written, as numbers."""
    arguments = {**arguments, **changes}
    arguments["reached"] = torch.full_like(arguments["value"], reached)
    ops.backtracking_step_(**arguments, backend=backend)
    return {name: arguments[name].flatten().tolist() for name in WRITTEN}


@every_backend
def test_a_proposal_that_rises_is_taken(backend: str, device: torch.device) -> None:
    found = after(state(device, value=1.0, best_value=1.5), 2.0, backend)
    assert found == {
        "point": [0.5, 0.75],
        "value": [2.0],
        "uphill": [-1.0, 0.0],
        "step_size": [0.25],
        "best": [0.5, 0.75],
        "best_value": [2.0],
        "average": [0.5 * 0.5 + 0.5 * -1.0, 0.5 * -0.5],
        "proposal": [0.5 + 0.25 * -0.25, 0.75 + 0.25 * -0.25],
    }


@every_backend
def test_a_proposal_that_falls_is_refused_and_the_step_shortened(
    backend: str, device: torch.device
) -> None:
    found = after(state(device, value=1.0, best_value=0.0), 0.5, backend)
    assert found == {
        "point": [0.5, 0.5],
        "value": [1.0],
        "uphill": [1.0, 1.0],
        "step_size": [0.125],
        "best": [0.25, 0.25],  # of what was taken only
        "best_value": [0.0],
        "average": [0.75, 0.25],
        "proposal": [0.5 + 0.125 * 0.75, 0.5 + 0.125 * 0.25],
    }


@every_backend
def test_an_equal_value_is_taken_and_is_no_better(backend: str, device: torch.device) -> None:
    found = after(state(device, value=1.0, best_value=1.0), 1.0, backend)
    assert found["point"] == [0.5, 0.75]
    assert found["best"] == [0.25, 0.25]
    assert found["step_size"] == [0.25]


@every_backend
def test_a_value_that_is_not_a_number_is_refused(backend: str, device: torch.device) -> None:
    found = after(state(device, value=-math.inf, best_value=-math.inf), math.nan, backend)
    assert found["point"] == [0.5, 0.5]
    assert found["value"] == [-math.inf]
    assert found["best"] == [0.25, 0.25]


@every_backend
def test_without_backtracking_every_proposal_is_taken(backend: str, device: torch.device) -> None:
    arguments = state(device, value=1.0, best_value=0.25)
    found = after(arguments, 0.5, backend, backtracking=None)
    assert found["point"] == [0.5, 0.75]
    assert found["value"] == [0.5]
    assert found["step_size"] == [0.25]
    assert found["best"] == [0.5, 0.75]
    assert found["best_value"] == [0.5]


@every_backend
def test_a_direction_as_given_is_averaged_as_it_is(backend: str, device: torch.device) -> None:
    found = after(state(device, value=1.0, best_value=1.0), 2.0, backend, direction="gradient")
    assert found["uphill"] == [-3.0, 0.0]
    assert found["average"] == [0.5 * 0.5 - 0.5 * 3.0, -0.25]


@every_backend
def test_the_proposal_keeps_to_ball_and_bounds(backend: str, device: torch.device) -> None:
    arguments = state(device, value=1.0, best_value=1.0)
    arguments["step_size"].fill_(100.0)
    assert after(duplicate(arguments), 2.0, backend)["proposal"] == [0.125, 0.125]
    assert after(duplicate(arguments), 0.5, backend)["proposal"] == [0.875, 0.875]
    found = after(duplicate(arguments), 2.0, backend, bounds=(0.25, 0.75))
    assert found["proposal"] == [0.25, 0.25]
    found = after(arguments, 2.0, backend, radius=math.inf, bounds=(-math.inf, math.inf))
    assert found["proposal"] == [0.5 - 25.0, 0.75 - 25.0]


@every_backend
def test_a_move_that_is_not_a_number_is_none(backend: str, device: torch.device) -> None:
    arguments = state(device, value=1.0, best_value=1.0)
    arguments["step_size"].fill_(math.inf)
    arguments["average"].copy_(torch.tensor([[1.0, 0.0]]))
    found = after(arguments, 2.0, backend)  # the averages are 0
    assert found["proposal"] == [0.5, 0.75]


@every_backend
def test_a_step_is_not_shortened_for_ever(backend: str, device: torch.device) -> None:
    arguments = state(device, value=1.0, best_value=1.0)
    for _ in range(80):
        found = after(arguments, 0.0, backend)
    assert found["step_size"] == [1e-20]


def compare_with_reference(
    arguments: Arguments, backend: str, device: torch.device, case: object
) -> None:
    expected, got = duplicate(arguments), duplicate(arguments, device)
    ops.backtracking_step_(**expected, backend="reference")
    ops.backtracking_step_(**got, backend=backend)
    for name, value in got.items():
        if isinstance(value, Tensor):
            assert identical(value, expected[name]), f"{name} differs for {case}"
            if name not in WRITTEN:
                assert identical(value, arguments[name]), f"{name} was written"


@fast_backend
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_equals_the_reference(
    backend: str, device: torch.device, dtype: torch.dtype, shape: str
) -> None:
    rows, image = SHAPES[shape]
    if backend == "triton":
        rows = INTERPRETED_ROWS.get(shape, rows)
    for direction in ("sign", "gradient"):
        for backtracking in (None, 1.1):
            for special in (False, True):
                arguments = backtracking_arguments(
                    rows=rows,
                    shape=image,
                    dtype=dtype,
                    direction=direction,
                    backtracking=backtracking,
                    special=special,
                )
                case = (direction, backtracking, special)
                compare_with_reference(arguments, backend, device, case)


@fast_backend
@given(
    rows=st.integers(0, 6),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    radius=st.floats(1e-4, 2.0) | st.just(math.inf),
    momentum=st.floats(0.0, 0.99),
    backtracking=st.none() | st.floats(1.0, 3.0),
    direction=st.sampled_from(["sign", "gradient"]),
    keeps_best=st.booleans(),
    special=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_step_equals_the_reference(
    backend: str, device: torch.device, **options: object
) -> None:
    compare_with_reference(backtracking_arguments(**options), backend, device, options)


@fast_backend
def test_twelve_steps_in_a_row_equal_the_reference(backend: str, device: torch.device) -> None:
    expected = backtracking_arguments(rows=9, shape=(3, 6, 6))
    got = duplicate(expected, device)
    for step in range(12):
        fresh = backtracking_arguments(rows=9, shape=(3, 6, 6), special=True, seed=step + 1)
        for name in ("gradient", "reached"):
            expected[name], got[name] = fresh[name], fresh[name].to(device)
        ops.backtracking_step_(**expected, backend="reference")
        ops.backtracking_step_(**got, backend=backend)
    for name in WRITTEN:
        assert identical(got[name], expected[name]), name
