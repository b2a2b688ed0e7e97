"""One projected-gradient step: by hand, and every backend equal to the reference to the bit."""

from __future__ import annotations

import math

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


def one_row(
    backend: str,
    device: torch.device,
    image: list[float],
    point: list[float],
    gradient: list[float],
    step: float,
    *,
    radius: float = 0.25,
    bounds: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> list[float]:
    """Where one candidate is after a step; lists among the options become tensors [1, D]."""
    for name, value in options.items():
        if isinstance(value, list) or name == "penalty":
            options[name] = torch.tensor([value], dtype=dtype, device=device)
    z = torch.tensor([point], dtype=dtype, device=device)
    ops.pgd_step_(
        z,
        torch.tensor([gradient], dtype=dtype, device=device),
        torch.tensor([image], dtype=dtype, device=device),
        torch.tensor([0], device=device),
        torch.tensor([step], dtype=dtype, device=device),
        radius=radius,
        bounds=bounds,
        backend=backend,
        **options,
    )
    return z[0].tolist()


HALF = [0.5, 0.5, 0.5]


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_motion_tells_rest_and_cycles_of_two_from_moves(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Up and down again, by hand: the gradient of row 0 alternates, row 1 rests, row 2 climbs."""
    image = torch.full((3, 5), 0.5, dtype=dtype, device=device)
    point = image.clone()
    previous = torch.full_like(point, math.nan)
    motion = torch.full((3,), 9, dtype=torch.uint8, device=device)
    told = []
    for step in range(4):
        gradient = torch.ones_like(point)
        gradient[0] = (-1.0) ** step
        gradient[1] = 0.0
        before = point.clone()
        ops.pgd_step_(
            point,
            gradient,
            image,
            torch.arange(3, device=device),
            torch.full((3,), 0.0625, dtype=dtype, device=device),
            radius=0.15625,
            bounds=(0.0, 1.0),
            previous=previous,
            motion=motion,
            backend=backend,
        )
        assert torch.equal(previous, before)
        told.append(motion.tolist())
    assert told == [[0, 1, 0], [2, 1, 0], [2, 1, 0], [2, 1, 1]]


@every_backend
def test_motion_without_a_previous_point_tells_rest_alone(
    backend: str, device: torch.device
) -> None:
    motion = torch.full((1,), 9, dtype=torch.uint8, device=device)
    one_row(backend, device, HALF, HALF, [1.0, 0.0, 0.0], 0.125, motion=motion)
    assert motion.tolist() == [0]
    one_row(backend, device, HALF, HALF, [0.0, 0.0, 0.0], 0.125, motion=motion)
    assert motion.tolist() == [1]


@fast_backend
def test_one_entry_that_differs_is_a_move(backend: str, device: torch.device) -> None:
    for entry in range(37):
        arguments = step_arguments(rows=1, shape=(37,), momentum=None, penalised=False)
        arguments["point"] = arguments["image"][arguments["image_index"]].clone()
        arguments["gradient"] = torch.zeros(1, 37)
        arguments["gradient"][0, entry] = 1.0
        arguments["previous"] = arguments["point"].clone()
        arguments = duplicate(arguments, device)
        ops.pgd_step_(**arguments, backend=backend)
        assert arguments["motion"].tolist() == [0], entry


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_follows_the_sign_of_the_gradient(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    moved = one_row(backend, device, HALF, HALF, [2e-9, -3e20, 0.0], 0.125, dtype=dtype)
    assert moved == [0.625, 0.375, 0.5]


@every_backend
def test_a_negative_step_goes_down(backend: str, device: torch.device) -> None:
    assert one_row(backend, device, HALF, HALF, [1.0, -1.0, 0.0], -0.125) == [0.375, 0.625, 0.5]


@every_backend
def test_a_step_is_clipped_to_the_ball_and_then_to_the_bounds(
    backend: str, device: torch.device
) -> None:
    image = [0.5, 0.875, 0.125]
    assert one_row(backend, device, image, image, [1.0, 1.0, -1.0], 0.5) == [0.75, 1.0, 0.0]


@every_backend
def test_bounds_other_than_zero_and_one_hold(backend: str, device: torch.device) -> None:
    moved = one_row(
        backend,
        device,
        [-1.75, 2.0],
        [-1.75, 2.0],
        [-1.0, 1.0],
        9.0,
        radius=1.0,
        bounds=(-2.0, 8.0),
    )
    assert moved == [-2.0, 3.0]


@every_backend
@pytest.mark.parametrize("extra", [{}, {"momentum_buffer": [0.0, 0.0, 0.0]}])
def test_nan_and_zero_gradients_do_not_move(
    backend: str, device: torch.device, extra: dict[str, object]
) -> None:
    point = [0.5, 0.625, 0.375]
    stays = one_row(backend, device, HALF, point, [math.nan, 0.0, -0.0], 0.125, **dict(extra))
    assert stays == point


@every_backend
def test_infinite_gradients_count_as_the_largest_number(backend: str, device: torch.device) -> None:
    buffer = torch.zeros(1, 3, dtype=torch.float64, device=device)
    moved = one_row(
        backend,
        device,
        HALF,
        HALF,
        [math.inf, -math.inf, 0.0],
        0.125,
        momentum_buffer=buffer,
    )
    assert moved == [0.625, 0.375, 0.5]
    assert buffer.tolist() == [[1.0, -1.0, 0.0]]


@every_backend
def test_a_step_of_length_zero_stays(backend: str, device: torch.device) -> None:
    assert one_row(backend, device, HALF, HALF, [1.0, -1.0, 5.0], 0.0) == HALF


@every_backend
def test_momentum_adds_the_gradient_divided_by_its_largest_entry(
    backend: str, device: torch.device
) -> None:
    buffer = torch.tensor([[0.5, -1.0, -4.0]], dtype=torch.float64, device=device)
    moved = one_row(
        backend, device, HALF, HALF, [2.0, 1.0, 0.0], 0.125, momentum_buffer=buffer, momentum=0.5
    )
    assert buffer.tolist() == [[1.25, 0.0, -2.0]]
    assert moved == [0.625, 0.5, 0.375]


@every_backend
def test_l1_moves_only_where_the_gradient_outweighs_the_penalty(
    backend: str, device: torch.device
) -> None:
    # largest gradient 1, so the penalty of 0.5 is a threshold of 0.5 for every entry:
    # climbs away, too weak to leave the image, gain equals the price, steps over the image
    moved = one_row(
        backend,
        device,
        [0.5, 0.5, 0.5, 0.5],
        [0.625, 0.5, 0.375, 0.53125],
        [1.0, 0.25, -0.5, 0.25],
        0.0625,
        penalty=0.5,
        norm="l1",
    )
    assert moved == [0.6875, 0.5, 0.375, 0.5]


@every_backend
def test_l2_moves_along_the_gradient_less_the_pull_to_the_image(
    backend: str, device: torch.device
) -> None:
    # d = (3, 4) / 8 has |d| = 5/8: the pull is threshold * (0.6, 0.8), and m = (1, 0.5)
    moved = one_row(
        backend,
        device,
        [0.0, 0.0],
        [0.375, 0.5],
        [2.0, 1.0],
        0.0625,
        radius=1.0,
        penalty=2.0,
        norm="l2",
    )
    assert moved == [0.4375, 0.4375]


@every_backend
@pytest.mark.parametrize(("penalty", "leaves"), [(1.0, True), (1.5, False)])
def test_l2_leaves_the_image_where_the_whole_gradient_outweighs_the_penalty(
    backend: str, device: torch.device, penalty: float, leaves: bool
) -> None:
    # |m| = |(1, 3/4)| = 1.25
    moved = one_row(
        backend, device, [0.5, 0.5], [0.5, 0.5], [1.0, -0.75], 0.125, penalty=penalty, norm="l2"
    )
    assert moved == ([0.625, 0.375] if leaves else [0.5, 0.5])


@every_backend
@pytest.mark.parametrize(
    ("penalty", "away"),
    [
        (1.0, [5 / 32, -5 / 32, 3 / 32]),  # 1 + 1/2 on the level outweigh it: the level rises
        (2.0, [3 / 32, -3 / 32, 3 / 32]),  # they do not: it sinks
    ],
)
def test_linf_moves_the_level_by_what_the_entries_on_it_gain(
    backend: str, device: torch.device, penalty: float, away: list[float]
) -> None:
    moved = one_row(
        backend,
        device,
        HALF,
        [0.5 + 1 / 8, 0.5 - 1 / 8, 0.5 + 1 / 16],
        [1.0, -0.5, 0.25],
        1 / 32,
        penalty=penalty,
        norm="linf",
    )
    assert moved == [0.5 + d for d in away]


@every_backend
def test_linf_keeps_the_level_where_only_those_that_would_pass_it_pay(
    backend: str, device: torch.device
) -> None:
    # the first entry is on the level 1/8 (gain 1), the second would pass it (gain 1/2)
    moved = one_row(
        backend,
        device,
        [0.5, 0.5],
        [0.5 + 8 / 64, 0.5 + 7 / 64],
        [1.0, 0.5],
        1 / 32,
        penalty=1.25,
        norm="linf",
    )
    assert moved == [0.5 + 1 / 8, 0.5 + 1 / 8]


@every_backend
@pytest.mark.parametrize("norm", NORMS)
def test_a_penalty_without_a_gradient_pulls_to_the_image(
    backend: str, device: torch.device, norm: str
) -> None:
    moved = one_row(
        backend, device, HALF, [0.75, 0.5, 0.5], [0.0, 0.0, 0.0], 0.125, penalty=0.01, norm=norm
    )
    assert moved == [0.625, 0.5, 0.5]


@every_backend
@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.875), ("l2", 0.625), ("linf", 0.5)])
def test_the_distance_is_that_of_the_new_point(
    backend: str, device: torch.device, norm: str, expected: float
) -> None:
    distance = torch.zeros(1, dtype=torch.float64, device=device)
    one_row(
        backend,
        device,
        [0.0, 0.0],
        [0.25, 0.625],
        [1.0, -1.0],
        0.125,
        radius=1.0,
        norm=norm,
        distance=distance,
    )
    assert distance.item() == expected


@every_backend
def test_the_best_point_changes_only_for_a_strictly_larger_score(
    backend: str, device: torch.device
) -> None:
    # value - 0.5 * distance: 0.75, 0.5, 0.25 and NaN against a best of 0.5
    point = torch.full((4, 2), 0.5, device=device)
    best = torch.zeros(4, 2, device=device)
    best_value = torch.full((4,), 0.5, device=device)
    ops.pgd_step_(
        point,
        torch.ones(4, 2, device=device),
        torch.full((1, 2), 0.5, device=device),
        torch.zeros(4, dtype=torch.int64, device=device),
        torch.full((4,), 0.125, device=device),
        radius=0.25,
        bounds=(0.0, 1.0),
        value=torch.tensor([1.0, 0.75, 0.5, math.nan], device=device),
        distance_weight=0.5,
        best=best,
        best_value=best_value,
        distance=torch.full((4,), 0.5, device=device),
        backend=backend,
    )
    assert best_value.tolist() == [0.75, 0.5, 0.5, 0.5]
    assert best.tolist() == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert point.tolist() == [[0.625, 0.625]] * 4  # kept before the move


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_copy_is_the_new_point_rounded_to_nearest(
    backend: str, device: torch.device, dtype: torch.dtype
) -> None:
    arguments = step_arguments(rows=20, shape=(101,), copy_dtype=dtype, device=device)
    ops.pgd_step_(**arguments, backend=backend)
    assert torch.equal(arguments["copy"], arguments["point"].to(dtype))
