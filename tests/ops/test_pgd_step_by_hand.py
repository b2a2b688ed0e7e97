"""One projected-gradient step by hand: what it does of each thing it can do, on every backend."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from op_backends import every_backend, fast_backend
from step_arguments import duplicate, step_arguments

from hcnn_fast import ops

NORMS = ("l1", "l2", "linf")


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


@every_backend
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)], ids=["cut", "whole"])
def test_the_reach_is_the_largest_gain_of_any_corner_from_the_old_point(
    backend: str, device: torch.device, bounds: tuple[float, float]
) -> None:
    image, point, gradient = [0.9, 0.1, 0.5], [0.95, 0.0, 0.6], [3.0, -2.0, -0.5]
    sides = [
        (max(x - 0.25, bounds[0]) - z, min(x + 0.25, bounds[1]) - z)
        for x, z in zip(image, point, strict=True)
    ]
    gains = [
        sum(g * side for g, side in zip(gradient, corner, strict=True))
        for corner in itertools.product(*sides)
    ]
    reach = torch.full((1,), -1.0, dtype=torch.float64, device=device)
    options = {"momentum_buffer": [0.5, 0.5, 0.5], "momentum": 0.5}  # of no account
    one_row(backend, device, image, point, gradient, 0.125, bounds=bounds, reach=reach, **options)
    assert reach.item() == pytest.approx(max(gains), rel=1e-12)


@every_backend
def test_what_is_not_a_number_adds_nothing_to_the_reach_and_infinity_the_most(
    backend: str, device: torch.device
) -> None:
    for gradient, expected in (([math.nan, 0.0, 0.0], 0.0), ([math.inf, 0.0, 0.0], math.inf)):
        reach = torch.full((1,), -1.0, device=device)
        one_row(
            backend,
            device,
            HALF,
            HALF,
            gradient,
            0.0,
            dtype=torch.float32,
            radius=4.0,
            bounds=(-9.0, 9.0),
            reach=reach,
        )
        assert reach.item() == expected
