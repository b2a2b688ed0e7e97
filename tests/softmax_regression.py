"""Softmax regression: its targeted maxima and worst cases in ball and bounds, by other means."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import optimize, special


def random_regression(
    seed: int, *, box: bool, dimension: int, classes: int = 4, images: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """weight [C, D], bias [C], x [N, D], bounds, which cut the balls where `box`."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, dimension)) * rng.uniform(1.0, 5.0)
    x = rng.uniform(0.0, 1.0, size=(images, dimension))
    if box:
        x = np.where(rng.uniform(size=x.shape) < 0.5, np.round(x), x)
    bias = rng.normal(size=classes) - weight @ x.mean(0)
    return weight, bias, x, (0.0, 1.0) if box else (-1.0, 2.0)


def interval(
    x: np.ndarray, radius: float, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(x - radius, bounds[0]), np.minimum(x + radius, bounds[1])


def most_probable(
    weight: np.ndarray,  # [C, D]
    bias: np.ndarray,  # [C]
    x: np.ndarray,  # [D]
    radius: float,
    bounds: tuple[float, float],
    label: int,
) -> float:
    """max F_l in the box: log F_l is concave, so L-BFGS-B finds it; a dual gap proves it."""
    low, high = interval(x, radius, bounds)

    def cost(z: np.ndarray) -> tuple[float, np.ndarray]:  # -log F_l
        logits = weight @ z + bias
        share = special.softmax(logits)
        return special.logsumexp(logits) - logits[label], share @ weight - weight[label]

    best, value, gap = x, math.inf, math.inf
    for _ in range(5):  # its line search may give up early: it goes on from there
        solved = optimize.minimize(
            cost,
            best,
            jac=True,
            bounds=list(zip(low, high, strict=True)),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10_000},
        )
        best = solved.x
        value, slope = cost(best)
        gap = slope @ best - np.where(slope > 0, low, high) @ slope  # bound on value - minimum
        if gap <= 1e-6 * max(1.0, value):
            break
    assert gap <= 1e-6 * max(1.0, value)
    return float(np.exp(-value))


def worst_cross_entropy(
    weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray, label: int
) -> float:
    """max -log F_y over the box: convex, so at one of its 2^D corners."""
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))  # [2^D, D]
    logits = corners @ weight.T + bias
    return float((special.logsumexp(logits, axis=1) - logits[:, label]).max())


def worst_margin(
    weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray, label: int
) -> float:
    """max over k != y of max Z_k - Z_y over the box, each at a corner of its own."""
    best = []
    for rival in set(range(len(bias))) - {label}:
        slope = weight[rival] - weight[label]
        corner = np.where(slope > 0, high, low)
        best.append(slope @ corner + bias[rival] - bias[label])
    return float(max(best))
