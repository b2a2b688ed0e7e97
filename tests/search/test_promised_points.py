"""What is always true of the points and values that a search finds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from search_uses import CONFIGS, assert_equal, every_config
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf


@every_config
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0), (0.2, 0.6), (0.0, 255.0)])
def test_points_lie_in_the_ball_and_in_the_bounds(
    config: hf.SearchConfig, bounds: tuple[float, float]
) -> None:
    low, high = bounds
    radius = 0.15 * (high - low)
    x = low + (high - low) * images(6)
    x[0, 0], x[1, 0] = low, high
    result = hf.search(
        linear(),
        x,
        config.replace(radius=radius, bounds=bounds, keep_points=True, starts=3),
    )
    assert result.label_point is not None
    for point in (result.point, *result.label_point.unbind(1)):
        assert bool(((point >= low) & (point <= high)).all())
        assert float((point - x).abs().max()) <= radius * (1 + 1e-6) + 1e-7 * max(1.0, high)
    if config.objective in ("mcn", "entropy"):
        assert float((result.point - x).abs().max()) > 0.5 * radius


def objective_at(
    config: hf.SearchConfig, logits: Tensor, label: Tensor, away: Tensor
) -> Tensor:  # [N]
    """The objective in float64, by its definition."""
    f = torch.softmax(logits.double(), 1)
    if config.objective == "entropy":
        return (f * f.log()).sum(1)
    own = f.gather(1, label[:, None])[:, 0]
    if config.objective == "ncn":
        return torch.where(own >= config.confidence, -away, -math.inf)
    return own - config.distance_weight * away


def distance(config: hf.SearchConfig, point: Tensor, x: Tensor) -> Tensor:  # [N]
    order = {"l1": 1, "l2": 2, "linf": math.inf}[config.distance_norm]
    return torch.linalg.vector_norm((point - x).double().flatten(1), order, dim=1)


@every_config
def test_the_value_is_the_objective_at_the_point(config: hf.SearchConfig) -> None:
    model, x = convolutional(), images(8)
    result = hf.search(model, x, config.replace(keep_points=True))
    feasible = result.label.clamp_min(0)
    expected = objective_at(
        config, model(result.point), feasible, distance(config, result.point, x)
    )
    torch.testing.assert_close(result.value, expected.float(), rtol=1e-5, atol=1e-6)
    assert result.label_point is not None
    for position, point in enumerate(result.label_point.unbind(1)):
        label = result.labels[:, position]
        expected = objective_at(config, model(point), label, distance(config, point, x))
        torch.testing.assert_close(
            result.label_value[:, position], expected.float(), rtol=1e-5, atol=1e-6
        )


@every_config
@pytest.mark.parametrize("model", [linear, convolutional])
def test_the_value_is_never_below_that_of_the_image(config: hf.SearchConfig, model: Any) -> None:
    network, x = model(), images(16)
    result = hf.search(network, x, config.replace(step_size=3.0, schedule="constant"))
    none = torch.zeros(len(x), dtype=torch.float64)
    logits = network(x).detach()
    own = torch.stack(
        [objective_at(config, logits, torch.full_like(result.label, k), none) for k in range(5)], 1
    )
    assert bool((result.value >= own.amax(1) - 1e-6).all())
    if config.objective != "entropy":
        assert bool((result.label_value >= own - 1e-6).all())


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "auto"])
@pytest.mark.parametrize("model", [linear, convolutional])
def test_a_search_in_low_precision_is_scored_in_float32(precision: Any, model: Any) -> None:
    network, x = model(), images(8)
    config = hf.SearchConfig.mcn(0.1, steps=6, precision=precision)
    result = hf.search(network, x, config)
    logits = network(result.point).detach()
    torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
    own = torch.softmax(logits, 1).gather(1, result.label[:, None])[:, 0]
    torch.testing.assert_close(result.value, own, rtol=1e-5, atol=1e-6)
    assert float((result.point - x).abs().max()) <= 0.1 + 1e-6
    assert bool(((result.point >= 0.0) & (result.point <= 1.0)).all())
    exact = hf.search(network, x, config.replace(precision="float32"))
    torch.testing.assert_close(result.value, exact.value, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "config",
    [hf.SearchConfig.mcn(1e-4, steps=2), hf.SearchConfig.hcnn(1e-4, 3.0, steps=2)],
    ids=["mcn", "hcnn"],
)
def test_low_precision_never_costs_an_image_its_own_value(
    config: hf.SearchConfig, precision: Any
) -> None:
    # a ball so small that rounding decides which point looks best
    network, x = convolutional(), images(40)
    result = hf.search(network, x, config.replace(precision=precision, keep_points=True))
    unmoved = torch.zeros(len(x), dtype=torch.float64)
    assert result.label_point is not None
    for position, point in enumerate(result.label_point.unbind(1)):
        label = result.labels[:, position]
        own = objective_at(config, network(x).detach(), label, unmoved)
        there = objective_at(config, network(point).detach(), label, distance(config, point, x))
        value = result.label_value[:, position].double()
        torch.testing.assert_close(value, there, rtol=0.0, atol=1e-6)
        assert bool((there >= own - 1e-6).all())


def test_images_outside_the_bounds_by_rounding_are_clipped() -> None:
    x = images()
    x[:, 0, 0, 0], x[:, 1, 0, 0] = 0.0, 1.0
    outside = x.clone()
    outside[:, 0, 0, 0] -= 9e-7
    outside[:, 1, 0, 0] += 9e-7
    before = outside.clone()
    assert_equal(
        hf.search(linear(), outside, CONFIGS["mcn"]), hf.search(linear(), x, CONFIGS["mcn"])
    )
    assert torch.equal(outside, before)


def test_one_class_is_certain() -> None:
    result = hf.search(linear(classes=1), images(), CONFIGS["mcn"])
    assert result.value.tolist() == [1.0] * 4
    assert torch.equal(result.point, images())


def test_images_of_one_value_are_searched() -> None:
    network = linear((1,), 3)
    result = hf.search(network, images(4, (1,)), CONFIGS["mcn"])
    assert result.point.shape == (4, 1)
