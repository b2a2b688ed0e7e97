"""A tolerance: what is given up, and what is saved."""

from __future__ import annotations

import pytest
import torch
from tiny_classifiers import convolutional, images, linear

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.engine.headroom import SAFETY

LONG = {"steps": 100, "momentum": 0.5}


@pytest.mark.parametrize("tolerance", [1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("radius", [0.02, 0.1, 0.3])
def test_a_linear_model_loses_no_more_than_the_tolerance(
    tolerance: float, starts: int, radius: float
) -> None:
    """Log odds are concave in the input there, so that what is in reach is a bound."""
    model, x = linear(classes=6), images(24)
    for config in (
        hf.SearchConfig.mcn(radius, starts=starts, **LONG),
        hf.SearchConfig.hcnn(radius, 0.3, "linf", starts=starts, **LONG),
    ):
        full = hf.search(model, x, config)
        part = hf.search(model, x, config.replace(tolerance=tolerance))
        assert float((full.value - part.value).max()) <= tolerance
        assert bool((part.label_value <= full.label_value + 2e-3).all())
        assert part.backwards < full.backwards
        clear = full.label_value.topk(2).values.diff().abs()[:, 0] > 2 * tolerance
        assert torch.equal(part.label[clear], full.label[clear])


def test_labels_that_cannot_win_are_not_climbed_for() -> None:
    model, x = linear(classes=6), images(24)
    config = hf.SearchConfig.mcn(0.01, steps=20, tolerance=1e-3)
    result = hf.search(model, x, config)
    assert result.backwards <= len(x) * (2 + 6 + 2 * config.steps)  # of 6 * 20
    untouched = result.label_value.scatter(1, result.label[:, None], 0.0)
    own = torch.softmax(model(x), 1).scatter(1, result.label[:, None], 0.0)
    assert float(((untouched - own).abs() < 1e-6).float().mean()) > 0.5


@pytest.mark.parametrize("radius", [0.1, 0.05])
@pytest.mark.parametrize("confidence", [0.3, 0.6, 0.9])
def test_ncn_gives_up_the_labels_that_its_bound_excludes_and_no_feasible_one(
    confidence: float, radius: float
) -> None:
    model, x = linear(classes=6), images(24)
    config = hf.SearchConfig.ncn(radius, confidence, steps=20)
    full = hf.search(model, x, config)
    part = hf.search(model, x, config.replace(tolerance=1e-3))
    torch.testing.assert_close(part.value, full.value, rtol=0.0, atol=1e-6)
    assert torch.equal(part.label, full.label)
    leaf = x.clone().requires_grad_()
    probability = torch.softmax(model(leaf), 1)  # [N, L]
    possible = torch.empty(24, 6, dtype=torch.bool)
    for label in range(6):
        odds = torch.logit(probability[:, label])
        (slope,) = torch.autograd.grad(odds.sum(), leaf, retain_graph=True)
        up, down = (x + radius).clamp(max=1.0) - x, (x - radius).clamp(min=0.0) - x
        reach = torch.maximum(up * slope, down * slope).flatten(1).sum(1)
        possible[:, label] = torch.sigmoid(odds.detach() + SAFETY * reach) >= confidence
    two_runs = 2 * config.steps
    assert torch.equal(part.steps, two_runs * possible.sum(1))
    assert torch.equal(full.steps, torch.full((24,), two_runs * 6))


def test_the_entropy_search_takes_a_tolerance_and_loses_nothing() -> None:
    model, x = convolutional(), images(4)
    config = hf.SearchConfig.entropy(0.1, steps=10)
    full = hf.search(model, x, config)
    part = hf.search(model, x, config.replace(tolerance=0.1))
    assert torch.equal(full.point, part.point)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("labels", [None, 1, 3])
def test_an_image_gets_the_same_in_any_batch(batch_size: int, labels: int | None) -> None:
    model, x = convolutional(dtype=torch.float64), images(6, dtype=torch.float64)
    config = hf.SearchConfig.mcn(0.1, steps=10, starts=2, tolerance=0.01, labels=labels)
    expected = hf.search(model, x, config)
    got = hf.search(model, x, config.replace(batch_size=batch_size))
    torch.testing.assert_close(got.point, expected.point, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(got.label_value, expected.label_value, rtol=0.0, atol=1e-12)
    assert torch.equal(got.steps, expected.steps)
    for n in range(len(x)):
        alone = hf.search(model, x[n : n + 1], config)
        torch.testing.assert_close(alone.point, expected.point[n : n + 1], rtol=0.0, atol=1e-12)
        assert torch.equal(alone.steps, expected.steps[n : n + 1])


def test_no_image_gets_less_than_it_has_itself() -> None:
    model, x = convolutional(), images(8)
    own = torch.softmax(model(x), 1)
    result = hf.search(model, x, hf.SearchConfig.mcn(0.1, steps=10, tolerance=0.5))
    assert bool((result.label_value >= own - 1e-6).all())
    assert bool((result.confidence >= own.amax(1) - 1e-6).all())


def test_the_shipped_network_keeps_its_winners() -> None:
    """Not a bound on a network: what it loses is measured."""
    model = models.load("fashion-adversarial").eval()
    x = data.load("fashion-mnist-sample", "test").scaled()[:64]
    config = hf.SearchConfig.mcn(0.05, momentum=0.0)
    full = hf.search(model, x, config)
    part = hf.search(model, x, config.replace(tolerance=1e-3))
    assert torch.equal(full.label, part.label)
    assert int((full.value - part.value > 1e-3).sum()) <= 1
    assert float((full.value - part.value).max()) <= 5e-3
    assert 5 * part.backwards < full.backwards
