"""What the searches must find on linear classifiers, by formulas and solvers of their own.

A binary linear classifier has log odds Z(z) = w . z + b. Every entry may go uphill (towards the
label) by its room: what the radius and the bounds leave it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import nn

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BinaryCase:
    """Images x [N, D] of a classifier whose log odds of label 1 are weight . x + bias."""

    weight: Array  # [D]
    bias: float
    x: Array  # [N, D]
    radius: float
    bounds: tuple[float, float]

    @property
    def odds(self) -> Array:  # [N, 2]
        """Log odds of both labels at the images."""
        z = self.x @ self.weight + self.bias
        return np.stack([-z, z], axis=1)

    def room(self, label: int) -> Array:  # [N, D]
        """How far each entry may go in the direction that raises the label."""
        up = np.minimum(self.x + self.radius, self.bounds[1]) - self.x
        down = self.x - np.maximum(self.x - self.radius, self.bounds[0])
        rises = self.weight > 0 if label == 1 else self.weight < 0
        return np.where(rises, up, down)


def binary_case(seed: int, *, box: bool, images: int = 10, reach: float = 4.0) -> BinaryCase:
    """A random case; its log odds change by at most about `reach` within the radius.

    With `box` the bounds cut the balls of most images, without they cut none.
    """
    rng = np.random.default_rng(seed)
    dimension = int(rng.integers(1, 40))
    radius = float(rng.uniform(0.02, 0.3))
    weight = rng.normal(size=dimension)
    weight *= rng.uniform(0.1, 1.0) * reach / (radius * np.abs(weight).sum())
    centre = rng.uniform(0.0, 1.0, size=dimension)
    if box:  # most entries near a bound
        centre = np.where(rng.uniform(size=dimension) < 0.7, np.round(centre), centre)
    x = np.clip(centre + rng.normal(scale=0.3 * radius, size=(images, dimension)), 0.0, 1.0)
    bias = float(rng.normal() - (x @ weight).mean())
    return BinaryCase(weight, bias, x, radius, (0.0, 1.0) if box else (-1.0, 2.0))


def classifier(
    weight: Array,  # [D] or [C, D]
    bias: float | Array,  # or [C]
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """A linear classifier with logits weight . x + bias; for one weight vector (0, weight . x)."""
    rows = weight if weight.ndim == 2 else np.stack([np.zeros_like(weight), weight])
    offset = bias if isinstance(bias, np.ndarray) else np.array([0.0, bias])
    layer = nn.Linear(rows.shape[1], rows.shape[0]).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rows))
        layer.bias.copy_(torch.from_numpy(offset))
    return layer.eval()


def sigmoid(u: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-u))


def logit(p: float) -> float:
    return math.log(p / (1.0 - p))


def norm(d: Array, name: str) -> Array:  # [..., D] -> [...]
    return np.linalg.norm(d, ord={"l1": 1, "l2": 2, "linf": np.inf}[name], axis=-1)


def _cheapest_climbs(slope: Array, room: Array, name: str, times: Array) -> Array:  # [T, D]
    """For each time the displacement uphill that gains most for its norm; it grows with time.

    linf: all entries together; l2: in proportion to their slope; l1: the steepest first.
    """
    if name == "linf":
        return np.minimum(times[:, None] * room.max(), room)
    if name == "l2":
        pace = np.divide(room, slope, out=np.zeros_like(room), where=slope > 0)
        return np.where(slope > 0, np.minimum(times[:, None] * pace.max() * slope, room), 0.0)
    order = np.argsort(-slope)
    before = np.cumsum(room[order]) - room[order]
    climbs = np.empty((len(times), len(room)))
    climbs[:, order] = np.clip(times[:, None] * room.sum() - before, 0.0, room[order])
    return climbs


def hcnn_value(odds: float, slope: Array, room: Array, weight: float, name: str) -> float:
    """max of sigmoid(odds + slope . d) - weight * |d| over 0 <= d <= room, slope >= 0.

    For every distance the best d lies on a curve: a grid of times, refined around its best.
    """
    low, high = 0.0, 1.0
    best = -math.inf
    for _ in range(4):
        times = np.linspace(low, high, 401)
        climbs = _cheapest_climbs(slope, room, name, times)
        values = sigmoid(odds + climbs @ slope) - weight * norm(climbs, name)
        top = int(values.argmax())
        best = max(best, float(values[top]))
        low, high = times[max(0, top - 1)], times[min(len(times) - 1, top + 1)]
    return best


def nearest_distance(needed: float, slope: Array, room: Array, name: str) -> float:
    """min |d| with slope . d >= needed over 0 <= d <= room; inf where no d reaches it.

    l_inf and l1 by linear programming, l2 by bisection on the multiplier of clip(t * slope, room).
    """
    if needed <= 0.0:
        return 0.0
    if slope @ room < needed:
        return math.inf
    dimension = len(slope)
    if name == "l2":

        def missing(t: float) -> float:
            return float(slope @ np.minimum(t * slope, room)) - needed

        top = max(float((room[slope > 0] / slope[slope > 0]).max()), 1e-300)
        t = optimize.brentq(missing, 0.0, top, xtol=1e-15) if missing(top) > 0.0 else top
        return float(np.linalg.norm(np.minimum(t * slope, room)))
    if name == "l1":
        cost, rows, limits = np.ones(dimension), -slope[None], [-needed]
        ranges = [(0.0, r) for r in room]
    else:  # the last variable is the level that no entry may pass
        cost = np.append(np.zeros(dimension), 1.0)
        level = np.hstack([np.eye(dimension), -np.ones((dimension, 1))])
        rows = np.vstack([np.append(-slope, 0.0), level])
        limits = [-needed] + [0.0] * dimension
        ranges = [(0.0, r) for r in room] + [(0.0, None)]
    solved = optimize.linprog(cost, A_ub=rows, b_ub=limits, bounds=ranges, method="highs")
    assert solved.success, solved.message
    return float(solved.fun)


def largest_gain(slope: Array, room: Array, radius: float, norm: str) -> float:
    """max slope . d over 0 <= d <= room with |d| <= radius."""
    if norm == "linf" or np.linalg.norm(room, ord=1 if norm == "l1" else 2) <= radius:
        return float(slope @ room)
    if norm == "l1":  # the steepest entries first
        order = np.argsort(-slope)
        before = np.cumsum(room[order]) - room[order]
        return float(slope[order] @ np.clip(radius - before, 0.0, room[order]))
    little, much = 0.0, 1e9  # d = min(t * slope, room)
    for _ in range(200):
        middle = 0.5 * (little + much)
        short = np.linalg.norm(np.minimum(middle * slope, room)) <= radius
        little, much = (middle, much) if short else (little, middle)
    return float(slope @ np.minimum(little * slope, room))
