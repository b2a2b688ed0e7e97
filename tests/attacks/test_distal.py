"""Distal examples: confidence on noise, and the noise itself."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_classifiers import convolutional, images, linear

from hcnn_fast.attacks import distal, uniform_noise


def test_a_linear_model_is_as_confident_as_its_ball_allows() -> None:
    # two classes: log odds |Z| rise by radius * |w|_1, towards the class that leads
    model, x = linear((20,), 2, dtype=torch.float64), images(10, (20,), dtype=torch.float64)
    result = distal(model, x, radius=0.1, steps=60, bounds=(-1.0, 2.0))
    logits = model(x).detach()
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    odds = (logits[:, 1] - logits[:, 0]).abs() + 0.1 * w.abs().sum()
    torch.testing.assert_close(result.confidence, torch.sigmoid(odds).float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.value, torch.sigmoid(odds).log().float(), rtol=0, atol=1e-6)
    assert result.success.all()


def test_confidence_rises_within_ball_and_bounds() -> None:
    model, x = convolutional(), uniform_noise(12, (3, 4, 4))
    before = torch.softmax(model(x), 1).amax(1).detach()
    result = distal(model, x, radius=0.1, steps=20, starts=3)
    assert bool((result.confidence >= before).all())
    assert float((result.confidence - before).mean()) > 0.02
    assert bool((result.point >= (x - 0.1).clamp_min(0.0)).all())
    assert bool((result.point <= (x + 0.1).clamp_max(1.0)).all())
    top = torch.softmax(model(result.point), 1).amax(1).detach()
    torch.testing.assert_close(result.confidence, top)
    torch.testing.assert_close(result.value, top.log())
    single = distal(model, x, radius=0.1, steps=20)
    assert bool((result.value >= single.value).all())
    assert result.gradient_steps == 12 * 3 * 20


def test_an_empty_batch_gives_an_empty_result() -> None:
    result = distal(linear(), uniform_noise(0, (3, 4, 4)), radius=0.1)
    assert result.point.shape == (0, 3, 4, 4)
    assert result.queries == 0


def test_noise_is_uniform_and_repeats_for_a_seed() -> None:
    state = torch.random.get_rng_state()
    noise = uniform_noise(50, (1, 20, 20), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(noise[:7], uniform_noise(7, (1, 20, 20), seed=3))
    assert not torch.equal(noise, uniform_noise(50, (1, 20, 20), seed=4))
    ordered = noise.flatten().double().sort().values
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert float((ordered - steps).abs().max()) < 2.0 / len(ordered) ** 0.5
    wide = uniform_noise(50, (1, 20, 20), seed=3, bounds=(-1.0, 3.0))
    torch.testing.assert_close(wide, 4.0 * noise - 1.0)


def test_smoothing_blurs_like_a_gaussian_and_spans_the_bounds() -> None:
    noise = uniform_noise(200, (1, 24, 24), smoothing=1.5, seed=1)
    flat = noise.flatten(1)
    assert torch.equal(flat.amin(1), torch.zeros(200))
    assert torch.equal(flat.amax(1), torch.ones(200))
    # white noise blurred with deviation s correlates as exp(-d^2 / (4 s^2)) at distance d
    middle = noise[:, 0, 6:18, 6:18].double()

    def difference(distance: int) -> float:
        return float((middle[..., distance:] - middle[..., :-distance]).square().mean())

    def expected(distance: int) -> float:
        return 1.0 - math.exp(-(distance**2) / (4 * 1.5**2))

    for distance in (2, 3, 4):
        ratio = difference(distance) / difference(1)
        assert ratio == pytest.approx(expected(distance) / expected(1), rel=0.05)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"count": -1}, ValueError, "count is -1"),
        ({"count": 2.0}, TypeError, "count is 2.0"),
        ({"smoothing": -1.0}, ValueError, "smoothing is -1.0"),
        ({"smoothing": float("nan")}, ValueError, "smoothing is nan"),
        ({"image": ()}, ValueError, "image is"),
        ({"image": (9,), "smoothing": 1.0}, ValueError, "image is"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_noise_is_named(change: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        uniform_noise(**{"count": 2, "image": (1, 8, 8), **change})
