"""Projections onto ball and bounds: against a solver and brute force, and never outside."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from hcnn_fast.attacks.norm_balls import BallNorm, Region, size_of, unit_step

NORMS: tuple[BallNorm, ...] = ("linf", "l2", "l1", "l0")
every_norm = pytest.mark.parametrize("norm", NORMS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
CONVEX = ("linf", "l2", "l1")


def project(point: Tensor, image: Tensor, **region: Any) -> Tensor:
    """The projection of a copy."""
    copy = point.clone()
    found = Region(image, **region).project_(copy)
    assert found is copy
    return found


def cases(
    seed: int, dimension: int, rows: int = 12, spread: float = 1.0
) -> tuple[Tensor, Tensor]:  # [B, D], [B, D]
    """Points around and far outside the bounds [0, 1], and images, half of them at a bound."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(size=(rows, dimension))
    image = np.where(rng.uniform(size=image.shape) < 0.5, np.round(image), image)
    point = image + rng.normal(scale=spread, size=image.shape)
    return torch.from_numpy(point), torch.from_numpy(image)


def radius_for(norm: str, dimension: int, share: float = 0.3) -> float:
    """A radius that cuts the points of `cases`."""
    scale = {"linf": 1.0, "l2": math.sqrt(dimension), "l1": dimension, "l0": dimension}
    return share * scale[norm]


def solved(point: np.ndarray, image: np.ndarray, radius: float, norm: str) -> np.ndarray:
    """The nearest point of ball and bounds [0, 1] by a general solver, as d = p - q, p and q >= 0.

    l1: p and q have the ranges of the bounds and sum to at most the radius.
    """
    away = point - image
    d = len(away)

    def cost(pq: np.ndarray) -> tuple[float, np.ndarray]:
        gap = pq[:d] - pq[d:] - away
        return float(gap @ gap) / 2, np.concatenate([gap, -gap])

    def left(pq: np.ndarray) -> float:
        if norm == "l1":
            return radius - float(pq.sum())
        return radius**2 - float(((pq[:d] - pq[d:]) ** 2).sum())

    def left_slope(pq: np.ndarray) -> np.ndarray:
        if norm == "l1":
            return -np.ones(2 * d)
        step = -2 * (pq[:d] - pq[d:])
        return np.concatenate([step, -step])

    found = optimize.minimize(
        cost,
        np.full(2 * d, 1e-3),
        jac=True,
        bounds=[(0.0, 1.0 - v) for v in image] + [(0.0, v) for v in image],
        constraints={"type": "ineq", "fun": left, "jac": left_slope},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return image + found.x[:d] - found.x[d:]


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("dimension", [1, 2, 5, 12])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_the_projection_is_the_nearest_point(norm: BallNorm, dimension: int, share: float) -> None:
    point, image = cases(dimension, dimension)
    radius = radius_for(norm, dimension, share)
    found = project(point, image, radius=radius, norm=norm, bounds=(0.0, 1.0))
    for row, (p, x) in enumerate(zip(point.numpy(), image.numpy(), strict=True)):
        best = solved(p, x, radius, norm)
        np.testing.assert_allclose(found[row].numpy(), best, rtol=0, atol=2e-5)
        assert np.linalg.norm(found[row].numpy() - p) <= np.linalg.norm(best - p) + 1e-7


def test_the_linf_projection_is_a_clip() -> None:
    point, image = cases(0, 40)
    found = project(point, image, radius=0.2, norm="linf", bounds=(0.0, 1.0)).numpy()
    x = image.numpy()
    expected = np.clip(np.clip(point.numpy(), x - 0.2, x + 0.2), 0.0, 1.0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dimension", [1, 3, 7, 9])
@pytest.mark.parametrize("radius", [0.4, 1.0, 2.5, 4.0])
def test_the_l0_projection_is_the_best_of_all_subsets(dimension: int, radius: float) -> None:
    point, image = cases(7 * dimension, dimension)
    assert bool((point < image).any())  # entries below the image count by their size
    found = project(point, image, radius=radius, norm="l0", bounds=(0.0, 1.0))
    count = min(dimension, math.ceil(radius))
    for row, (p, x) in enumerate(zip(point.numpy(), image.numpy(), strict=True)):
        inside = np.clip(p, 0.0, 1.0)
        distances = []
        for subset in itertools.combinations(range(dimension), count):
            z = x.copy()
            z[list(subset)] = inside[list(subset)]
            distances.append(np.linalg.norm(z - p))
        got = found[row].numpy()
        assert np.linalg.norm(got - p) == pytest.approx(min(distances), abs=1e-12)
        assert (got != x).sum() <= count


@every_norm
@every_dtype
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 4.0), (0.1, 0.7)])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4])
def test_projections_stay_inside_and_repeat_to_the_bit(
    norm: BallNorm, dtype: torch.dtype, bounds: tuple[float, float], spread: float
) -> None:
    for seed, dimension in enumerate((1, 17, 300)):
        point, image = cases(seed, dimension, rows=30, spread=spread)
        low, high = bounds
        image = (low + (high - low) * image).to(dtype).clamp(*bounds)
        point = point.to(dtype)
        for share in (0.001, 0.1, 2.0):
            radius = radius_for(norm, dimension, share)
            box = {"radius": radius, "norm": norm, "bounds": bounds}
            once = project(point, image, **box)
            assert once.dtype == dtype
            assert bool(((once >= low) & (once <= high)).all())
            away = once.double() - image.double()
            limit = {"l0": math.ceil(radius), "linf": radius + 1e-6}.get(norm, radius)
            assert float(size_of(away, norm).max()) <= limit
            assert torch.equal(project(once, image, **box), once)


@every_norm
def test_a_point_inside_stays_to_the_bit(norm: BallNorm) -> None:
    _, image = cases(3, 20)
    image = image.float()
    point = image.clone()
    point[:, 4] = (point[:, 4] - 0.05).clamp(0.0, 1.0)
    found = project(point, image, radius=0.06, norm=norm, bounds=(0.0, 1.0))
    assert torch.equal(found, point)


@pytest.mark.parametrize("norm", CONVEX)
def test_convex_projections_do_not_expand(norm: BallNorm) -> None:
    first, image = cases(5, 30, rows=200)
    other = first + 0.3 * cases(6, 30, rows=200)[0]
    box = {"radius": radius_for(norm, 30, 0.2), "norm": norm, "bounds": (0.0, 1.0)}
    moved = (project(first, image, **box) - project(other, image, **box)).norm(dim=1)
    assert bool((moved <= (first - other).norm(dim=1) + 1e-12).all())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_joint_projection_is_nearer_than_ball_then_bounds(norm: BallNorm) -> None:
    point, image = cases(8, 25, rows=60)
    radius = radius_for(norm, 25, 0.2)
    joint = project(point, image, radius=radius, norm=norm, bounds=(0.0, 1.0))
    ball = project(point, image, radius=radius, norm=norm, bounds=(-1e3, 1e3))
    one_by_one = ball.clamp(0.0, 1.0)
    nearer = (joint - point).norm(dim=1)
    assert bool((nearer <= (one_by_one - point).norm(dim=1) + 1e-12).all())
    assert int((nearer < (one_by_one - point).norm(dim=1) - 1e-3).sum()) > 50


def test_without_bounds_in_reach_the_projections_are_the_textbook_ones() -> None:
    point, image = cases(9, 15)
    away = (point - image).numpy()
    free = {"radius": 0.8, "bounds": (-1e3, 1e3)}
    l2 = (project(point, image, norm="l2", **free) - image).numpy()
    scale = np.minimum(1.0, 0.8 / np.linalg.norm(away, axis=1, keepdims=True))
    np.testing.assert_allclose(l2, scale * away, rtol=0, atol=1e-12)
    l1 = (project(point, image, norm="l1", **free) - image).numpy()
    for row, v in enumerate(away):
        u = np.sort(np.abs(v))[::-1]
        lowered = (np.cumsum(u) - 0.8) / np.arange(1, len(u) + 1)
        threshold = lowered[np.nonzero(u > lowered)[0].max()]
        expected = np.sign(v) * np.maximum(np.abs(v) - threshold, 0.0)
        np.testing.assert_allclose(l1[row], expected, rtol=0, atol=1e-12)


@every_norm
@every_dtype
def test_a_unit_step_has_length_one_and_goes_uphill(norm: BallNorm, dtype: torch.dtype) -> None:
    g = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 2, 3, 4))).to(dtype)
    for scale in (1e-37, 1.0, 1e37):
        step = unit_step(g * scale, norm)
        assert step.shape == g.shape
        assert step.dtype == dtype
        length = size_of(step, "l1" if norm == "l0" else norm)
        torch.testing.assert_close(length, torch.ones(9).double(), rtol=1e-5, atol=0.0)
        if norm == "linf":
            assert torch.equal(step, g.sign())
        else:
            ratio = (step / g).flatten(1)
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0.0)
            assert bool((ratio > 0).all())


@every_norm
def test_no_gradient_and_nan_do_not_move(norm: BallNorm) -> None:
    g = torch.tensor([[0.0, 0.0, 0.0], [math.nan] * 3, [math.nan, 0.0, -2.0], [0.0, 1e-45, 0.0]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    assert torch.equal(unit_step(g, norm), expected)
    endless = unit_step(torch.tensor([[math.inf, 1.0, -math.inf]]), norm)
    assert bool(torch.isfinite(endless).all())
    assert float(endless[0, 0]) > 0 > float(endless[0, 2])


@every_norm
def test_an_empty_batch_is_projected_to_an_empty_one(norm: BallNorm) -> None:
    none = torch.zeros(0, 3, 4)
    assert project(none, none, radius=1.0, norm=norm, bounds=(0.0, 1.0)).shape == (0, 3, 4)
    assert unit_step(none, norm).shape == (0, 3, 4)
