"""The nearest point of a box and a half-space, against scipy's solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from tiny_classifiers import images, linear
from torch import Tensor

from hcnn_fast import reference
from hcnn_fast.engine import nearest
from hcnn_fast.engine.ball import Ball, Candidates

NORMS = ("l1", "l2", "linf")
D = 6


def nearest_point(
    point: Tensor,  # [B, D]
    gradient: Tensor,  # [B, D]
    margin: Tensor,  # [B]
    ball: Ball,
    index: Tensor,  # [B]
    norm: str,
) -> Tensor:  # [B, D]
    """Nearest to the image with margin + gradient . (z - point) >= 0."""
    needed = nearest.needed_from_image(point, gradient, margin, ball, index)
    return nearest.project(gradient, needed, ball, index, norm)


def distance(d: np.ndarray, norm: str) -> float:
    return float(np.linalg.norm(d, {"l1": 1, "l2": 2, "linf": math.inf}[norm]))


def shortest(g: np.ndarray, needed: float, low: np.ndarray, high: np.ndarray, norm: str) -> float:
    """min |d| subject to g . d >= needed and low <= d <= high; the problem must be feasible."""
    if norm == "l2":
        done = minimize(
            lambda d: float(d @ d),
            np.where(g > 0, high, low),
            jac=lambda d: 2.0 * d,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "ineq", "fun": lambda d: g @ d - needed, "jac": lambda d: g},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert done.success
        return float(np.sqrt(done.fun))
    # variables d and its size: one bound for all entries (linf), or one for each (l1)
    count = 1 if norm == "linf" else D
    size = np.ones((D, 1)) if norm == "linf" else np.eye(D)
    cost = np.concatenate([np.zeros(D), np.ones(count)])
    rows = [np.hstack([np.eye(D), -size]), np.hstack([-np.eye(D), -size])]
    half_space = np.concatenate([-g, np.zeros(count)])[None]
    done = linprog(
        cost,
        A_ub=np.vstack([*rows, half_space]),
        b_ub=np.concatenate([np.zeros(2 * D), [-needed]]),
        bounds=[*zip(low, high, strict=True), *[(0.0, None)] * count],
    )
    assert done.success
    return float(done.fun)


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor, Ball]:
    """Images near the bounds, points in their balls, gradients with zeros and ties."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, D, generator=generator, dtype=torch.float64)
    g = torch.randn(8, D, generator=generator, dtype=torch.float64)
    g[1, :2], g[2, :] = 0.0, 0.7
    point = (x + 0.2 * (2 * torch.rand(8, D, generator=generator) - 1)).clamp(0.0, 1.0)
    ball = Ball(image=x, radius=0.2, bounds=(0.0, 1.0), backend="reference")
    return x, g, point, ball


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_point_is_as_near_as_scipy_finds(seed: int, share: float, norm: str) -> None:
    x, g, point, ball = problem(seed)
    low = (x - 0.2).clamp_min(0.0) - x
    high = (x + 0.2).clamp_max(1.0) - x
    most = (g * torch.where(g > 0, high, low)).sum(1)  # the largest g . d in the box
    needed = share * most
    margin = (g * (point - x)).sum(1) - needed
    z = nearest_point(point, g, margin, ball, torch.arange(8), norm)
    d = z - x
    assert bool(((d >= low - 1e-12) & (d <= high + 1e-12)).all())
    assert bool(((g * d).sum(1) >= needed - 1e-5 * needed.abs()).all())
    for row in range(8):
        best = shortest(
            g[row].numpy(), float(needed[row]), low[row].numpy(), high[row].numpy(), norm
        )
        assert distance(d[row].numpy(), norm) == pytest.approx(best, rel=2e-5, abs=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_half_space_out_of_reach_is_approached_as_far_as_it_goes(norm: str) -> None:
    x, g, point, ball = problem(0)
    z = nearest_point(point, g, torch.full((8,), -1e3).double(), ball, torch.arange(8), norm)
    low, high = (x - 0.2).clamp_min(0.0), (x + 0.2).clamp_max(1.0)
    corner = torch.where(g > 0, high, torch.where(g < 0, low, x))
    torch.testing.assert_close(z, corner, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_in_the_half_space_is_its_own_nearest_point(norm: str) -> None:
    x, g, point, ball = problem(0)
    margin = (g * (point - x)).sum(1) + 0.1
    z = nearest_point(point, g, margin, ball, torch.arange(8), norm)
    assert torch.equal(z, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("needed", [-1.0, 0.0, 0.1, 0.3, 1e3])
def test_the_nearest_point_is_that_of_the_reference(norm: str, needed: float) -> None:
    x, g, point, ball = problem(1)
    margin = (g * (point - x)).sum(1) - needed
    got = nearest_point(point, g, margin, ball, torch.arange(8), norm)
    for row in range(8):
        lower, upper = (x[row] - 0.2).clamp_min(0.0), (x[row] + 0.2).clamp_max(1.0)
        expected = reference.nearest.project(x[row], g[row], needed, lower, upper, norm)
        torch.testing.assert_close(got[row], expected, rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_not_numbers_do_not_move(norm: str) -> None:
    x, g, point, ball = problem(2)
    g[:, 0], g[:, 1], g[:, 2] = math.nan, math.inf, -math.inf
    z = nearest_point(point, g, torch.full((8,), -0.05).double(), ball, torch.arange(8), norm)
    assert torch.equal(z[:, :3], x[:, :3])
    assert z.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_stays_at_the_image(norm: str) -> None:
    x, g, point, ball = problem(2)
    z = nearest_point(
        point, torch.zeros_like(g), torch.full((8,), -1.0).double(), ball, torch.arange(8), norm
    )
    assert torch.equal(z, x)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_found_is_confident_and_what_is_not_comes_back(norm: str) -> None:
    model, x = linear((D,), 3), images(6, (D,))
    ball = Ball(image=x, radius=0.2, bounds=(0.0, 1.0), backend="reference")
    candidates = Candidates(
        index=torch.arange(6), label=torch.arange(6) % 3, point=(x + 0.1).clamp(0.0, 1.0)
    )
    result = nearest.approach(model, candidates, ball, confidence=0.4, steps=6, norm=norm)
    found, away = result.point, -result.value
    assert torch.equal(result.logits, model(found).detach())
    confidence = torch.softmax(model(found), 1).gather(1, candidates.label[:, None])[:, 0]
    feasible = away < math.inf
    assert 0 < int(feasible.sum()) < 6
    assert bool((confidence[feasible] >= 0.4).all())
    assert torch.equal(found[~feasible], candidates.point[~feasible])
    for row in torch.nonzero(feasible)[:, 0].tolist():
        expected = distance((found - x)[row].detach().double().numpy(), norm)
        assert float(away[row]) == pytest.approx(expected, rel=1e-5)
