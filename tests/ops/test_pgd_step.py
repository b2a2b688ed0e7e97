"""One projected-gradient step: every backend equals the reference to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend, fast_backend
from op_differences import identical
from step_arguments import WRITTEN, Arguments, duplicate, step_arguments
from torch import Tensor

from hcnn_fast import ops

NORMS = ("l1", "l2", "linf")
DTYPES = {
    "float32": (torch.float32, torch.float32, None),
    "bfloat16-gradient": (torch.float32, torch.bfloat16, torch.bfloat16),
    "float16-gradient": (torch.float32, torch.float16, torch.float16),
    "float64": (torch.float64, torch.float64, None),
}
SHAPES = {  # rows, one image
    "one-value": (1, (1,)),
    "odd": (3, (7,)),
    "lanes": (2, (16,)),
    "image": (5, (3, 5, 7)),
    "blocks": (9, (3, 33, 33)),
    "many-rows": (700, (13,)),
    "no-rows": (0, (3, 4, 4)),
    "one-channel": (4, (1, 6, 5)),
}
INTERPRETED_ROWS = {"many-rows": 5, "blocks": 2, "image": 2, "ball": 6}  # of triton
WAYS = {  # momentum, penalised, keeps_best
    "plain": (None, False, False),
    "best": (None, False, True),
    "momentum": (0.75, False, True),
    "penalty": (None, True, True),
    "all": (0.75, True, True),
}


def assert_same(name: str, got: Tensor, expected: Tensor, case: object) -> None:
    if name in ("distance", "reach"):  # sums in float64, of l1 and l2 in any order
        limit = 2e-14 if expected.dtype == torch.float64 else torch.finfo(expected.dtype).eps
        torch.testing.assert_close(got.cpu(), expected, rtol=limit, atol=0.0, msg=f"{case}")
        return
    assert identical(got, expected), f"{name} differs for {case}"


def compare_with_reference(
    arguments: Arguments, backend: str, device: torch.device, case: object
) -> None:
    expected, got = duplicate(arguments), duplicate(arguments, device)
    ops.pgd_step_(**expected, backend="reference")
    ops.pgd_step_(**got, backend=backend)
    for name, value in got.items():
        if isinstance(value, Tensor):
            assert_same(name, value, expected[name], case)
            if name not in WRITTEN:
                assert identical(value, arguments[name]), f"{name} was written"


@fast_backend
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_equals_the_reference(
    backend: str, device: torch.device, dtype: str, shape: str
) -> None:
    point, gradient, copy = DTYPES[dtype]
    rows, image = SHAPES[shape]
    if backend == "triton":
        rows = INTERPRETED_ROWS.get(shape, rows)
    for norm in NORMS:
        for way, (momentum, penalised, keeps_best) in WAYS.items():
            for special in (False, True):
                arguments = step_arguments(
                    rows=rows,
                    shape=image,
                    dtype=point,
                    gradient_dtype=gradient,
                    copy_dtype=copy,
                    momentum=momentum,
                    penalised=penalised,
                    keeps_best=keeps_best,
                    norm=norm,
                    special=special,
                )
                compare_with_reference(arguments, backend, device, (norm, way, special))


@fast_backend
@given(
    rows=st.integers(0, 6),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(sorted(DTYPES)),
    momentum=st.none() | st.floats(0.0, 0.99),
    penalised=st.booleans(),
    keeps_best=st.booleans(),
    norm=st.sampled_from(NORMS),
    radius=st.floats(1e-4, 2.0),
    low=st.floats(-2.0, 0.5),
    width=st.floats(0.01, 3.0),
    special=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_step_equals_the_reference(
    backend: str, device: torch.device, dtype: str, low: float, width: float, **options: object
) -> None:
    point, gradient, copy = DTYPES[dtype]
    arguments = step_arguments(
        dtype=point,
        gradient_dtype=gradient,
        copy_dtype=copy,
        bounds=(low, low + width),
        **options,
    )
    compare_with_reference(arguments, backend, device, options)


@fast_backend
@pytest.mark.parametrize("norm", NORMS)
def test_twelve_steps_in_a_row_equal_the_reference(
    backend: str, device: torch.device, norm: str
) -> None:
    expected = step_arguments(rows=11, shape=(3, 8, 8), norm=norm, special=True)
    got = duplicate(expected, device)
    for step in range(12):
        fresh = step_arguments(rows=11, shape=(3, 8, 8), norm=norm, special=True, seed=step + 1)
        for name in ("gradient", "value", "penalty"):
            expected[name], got[name] = fresh[name], fresh[name].to(device)
        ops.pgd_step_(**expected, backend="reference")
        ops.pgd_step_(**got, backend=backend)
        got["distance"].copy_(expected["distance"])
    for name in ("point", "momentum_buffer", "best", "best_value", "previous", "motion"):
        assert_same(name, got[name], expected[name], norm)


@fast_backend
def test_channels_last_gives_what_the_contiguous_layout_gives(
    backend: str, device: torch.device
) -> None:
    contiguous = step_arguments(rows=4, shape=(3, 6, 5), device=device)
    strided = step_arguments(rows=4, shape=(3, 6, 5), channels_last=True, device=device)
    assert strided["point"].stride() != contiguous["point"].stride()
    ops.pgd_step_(**contiguous, backend=backend)
    ops.pgd_step_(**strided, backend=backend)
    for name in ("point", "momentum_buffer", "best", "best_value", "distance"):
        assert identical(strided[name], contiguous[name]), name


@fast_backend
def test_a_row_does_not_depend_on_its_neighbours(backend: str, device: torch.device) -> None:
    together = step_arguments(rows=40, shape=(3, 20, 20), device=device)
    apart = duplicate(together)
    ops.pgd_step_(**together, backend=backend)
    for row in range(40):
        alone = {
            name: value[row : row + 1].clone()
            if isinstance(value, Tensor) and name != "image"
            else value
            for name, value in apart.items()
        }
        ops.pgd_step_(**alone, backend=backend)
        assert identical(alone["point"][0], together["point"][row])
        assert identical(alone["distance"][0], together["distance"][row])


@every_backend
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_step_leaves_the_ball_or_the_bounds(
    backend: str, device: torch.device, norm: str, way: str
) -> None:
    momentum, penalised, keeps_best = WAYS[way]
    arguments = step_arguments(
        rows=INTERPRETED_ROWS["ball"] if backend == "triton" else 30,
        shape=(41,),
        momentum=momentum,
        penalised=penalised,
        keeps_best=keeps_best,
        norm=norm,
        radius=0.3,
        special=True,
        device=device,
    )
    for size in (0.0, 1e-8, 0.2, 0.6, 1e30):
        arguments["step_size"].fill_(size)
        for sign in (1.0, -1.0):
            arguments["step_size"].mul_(sign)
            ops.pgd_step_(**arguments, backend=backend)
            x = arguments["image"][arguments["image_index"]]
            lower, upper = (x - 0.3).clamp_min(0.0), (x + 0.3).clamp_max(1.0)
            point = arguments["point"]
            assert bool(((point >= lower) & (point <= upper)).all()), (size, sign)
