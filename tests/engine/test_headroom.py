"""What is in reach, against enumeration, and what may be concluded from it for linear models."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_classifiers import images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.headroom import attainable, reach
from hcnn_fast.engine.slopes import slope

D = 6


def ball_of(x: Tensor, radius: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Ball:
    return Ball(image=x, radius=radius, bounds=bounds, backend="reference")


@pytest.mark.parametrize("radius", [0.1, 0.7])
def test_the_reach_is_the_largest_gain_of_any_corner(radius: float) -> None:
    x = images(4, (D,), dtype=torch.float64)
    torch.manual_seed(1)
    gradient, index = torch.randn(5, D).double(), torch.tensor([0, 1, 2, 3, 3])
    ball = ball_of(x, radius)
    low, high = (x - radius).clamp_min(0.0)[index], (x + radius).clamp_max(1.0)[index]
    point = low + torch.rand(5, D).double() * (high - low)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=D))).double()  # [2^D, D]
    places = low[:, None] + corners * (high - low)[:, None]  # [5, 2^D, D]
    expected = ((places - point[:, None]) * gradient[:, None]).sum(2).amax(1)
    got = reach(point, gradient, ball, index)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_nothing_is_in_reach_at_the_best_corner_or_without_a_gradient() -> None:
    x = images(3, (D,), dtype=torch.float64)
    ball, index = ball_of(x, 0.1), torch.arange(3)
    gradient = torch.ones_like(x)
    top = (x + 0.1).clamp_max(1.0)
    assert reach(top, gradient, ball, index).tolist() == [0.0] * 3
    assert reach(x, torch.zeros_like(x), ball, index).tolist() == [0.0] * 3
    assert reach(x, torch.full_like(x, torch.nan), ball, index).tolist() == [0.0] * 3


def test_attainable_is_the_probability_after_the_gain_in_log_odds() -> None:
    odds = torch.tensor([-30.0, -2.0, 0.0, 3.0, 40.0], dtype=torch.float64)
    gain = torch.tensor([1.0, 0.5, 2.0, 0.0, 5.0], dtype=torch.float64)
    log_probability = torch.nn.functional.logsigmoid(odds)
    within = gain * torch.sigmoid(-odds)  # of log F_l, whose slope is (1 - F_l) times
    got = attainable(log_probability, within, safety=2.0)
    torch.testing.assert_close(got, torch.sigmoid(odds + 2.0 * gain), rtol=1e-9, atol=0.0)
    assert attainable(torch.zeros(1), torch.zeros(1)).tolist() == [1.0]  # F_l = 1 already


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-5.0, 5.0)], ids=["box", "ball"])
def test_no_point_of_the_ball_passes_what_a_linear_model_can_attain(
    bounds: tuple[float, float],
) -> None:
    """The log odds of a softmax regression are concave, so the bound is one for every point."""
    x = images(8, (D,), dtype=torch.float64)
    model = linear((D,), 4, dtype=torch.float64)
    best = hf.search(model, x, hf.SearchConfig.mcn(0.3, steps=200, bounds=bounds)).label_value
    ball = ball_of(x, 0.3, bounds)
    for start in (x, (x + 0.05).clamp(0.0, 1.0)):
        for label in range(4):
            labels = torch.full((8,), label)
            at = slope(model, start, labels, "log_probability", 1.0, "reference")
            bound = attainable(at.value, reach(start, at.gradient, ball, torch.arange(8)))
            assert bool((best[:, label] <= bound + 1e-6).all())
            assert bool((bound < 1.0).all())
