"""Every preset finds the points and gives the answers of the formulas that were published."""

from __future__ import annotations

from collections.abc import Callable

import published_presets as published
import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

MODELS = {"linear": linear, "convolutional": convolutional}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
every_bounds = pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0), (0.3, 0.5)])
COUNT = 24


def case(
    make: Callable[..., nn.Module], bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[nn.Module, Tensor]:
    low, high = bounds
    x = low + (high - low) * images(COUNT, dtype=torch.float64)
    x[0], x[1] = low, high
    return make(dtype=torch.float64), x


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@every_model
@pytest.mark.parametrize(("size", "steps"), [(0.15, 2), (0.02, 5)])
def test_anti_adversary_takes_the_published_steps(
    make: Callable[..., nn.Module], size: float, steps: int
) -> None:
    model, x = case(make)
    config = hf.presets.anti_adversary(size, steps, bounds=(-1.0, 2.0))
    found = hf.search(model, x, config)
    expected = published.anti_adversary(model, x, size, steps)
    own = model(x).argmax(1)[:, None]

    def certainty(point: Tensor) -> Tensor:
        return torch.log_softmax(model(point), 1).gather(1, own)[:, 0]

    path = torch.stack(
        [certainty(published.anti_adversary(model, x, size, k)) for k in range(steps + 1)]
    )
    last_is_best = path.argmax(0) == steps
    assert int(last_is_best.sum()) >= 20
    close(found.point[last_is_best], expected[last_is_best])
    close(certainty(found.point), path.amax(0))
    assert torch.equal(found.prediction[last_is_best], model(expected).argmax(1)[last_is_best])
    assert torch.equal(found.label, own[:, 0])
    close(hf.Defense(model, config)(x)[last_is_best], model(expected)[last_is_best].detach())
    assert bool(((expected < 0.0) | (expected > 1.0)).any())  # bounds would have mattered


@every_model
@every_bounds
@pytest.mark.parametrize(("steps", "size"), [(1, None), (4, None), (20, 0.03)])
def test_hedge_takes_the_published_steps(
    make: Callable[..., nn.Module], bounds: tuple[float, float], steps: int, size: float | None
) -> None:
    model, x = case(make, bounds)
    radius = 0.1
    found = hf.presets.hedge(
        model, x, radius=radius, steps=steps, step_size=size, seed=3, bounds=bounds
    )
    # A model that is flat leaves every run at its start.
    start = hf.presets.hedge(Flat(), x, radius=radius, steps=1, seed=3, bounds=bounds).point
    expected = published.hedge(model, x, start, radius, size or radius / 2, steps, bounds)
    close(found.point, expected)
    logits = model(expected).detach()
    close(found.logits, logits)
    assert torch.equal(found.prediction, logits.argmax(1))
    close(found.probability, torch.softmax(logits, 1).float())
    assert torch.equal(found.confidence, found.probability.amax(1))
    assert bool(found.accepted.all())
    assert (found.forwards, found.backwards) == (COUNT * (steps + 1), COUNT * steps)


class Flat(nn.Module):
    """Logits with a gradient that is 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x.flatten(1)[:, :5]


def test_hedge_starts_anywhere_in_ball_and_bounds() -> None:
    x = images(COUNT, dtype=torch.float64)
    start, other = (
        hf.presets.hedge(Flat(), x, radius=0.2, steps=1, seed=seed).point for seed in (0, 1)
    )
    low, high = (x - 0.2).clamp_min(0.0), (x + 0.2).clamp_max(1.0)
    share = (start - low) / (high - low)
    assert bool(((share >= 0.0) & (share <= 1.0)).all())
    assert float(share.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(share.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert not bool((start == other).any())


@every_model
@every_bounds
@pytest.mark.parametrize("radius", [0.01, 0.2])
def test_pnml_normalises_what_the_published_step_reaches(
    make: Callable[..., nn.Module], bounds: tuple[float, float], radius: float
) -> None:
    model, x = case(make, bounds)
    found = hf.presets.pnml(model, x, radius=radius, bounds=bounds)
    points, reached = published.pnml(model, x, radius, bounds)
    own = torch.softmax(model(x), 1).detach()
    assert bool((reached >= own).all())  # no step overshoots
    normalised = (reached / reached.sum(1, keepdim=True)).float()
    torch.testing.assert_close(found.probability, normalised, rtol=1e-5, atol=1e-6)
    label = reached.argmax(1)
    assert torch.equal(found.prediction, label)
    close(found.point, points[torch.arange(COUNT), label])
    close(found.logits, model(found.point).detach())
    assert torch.equal(found.confidence, found.probability.amax(1))
    assert bool(found.accepted.all())
    assert COUNT * 6 <= found.forwards <= COUNT * 10
    assert found.backwards == COUNT * 5
    if radius == 0.2 and bounds != (0.3, 0.5) and make is linear:
        assert not torch.equal(label, own.argmax(1))


def test_pnml_takes_no_step_that_makes_its_label_less_likely() -> None:
    model, x = case(Waves)
    found = hf.presets.pnml(model, x, radius=0.3)
    _, reached = published.pnml(model, x, 0.3, (0.0, 1.0))
    own = torch.softmax(model(x), 1).detach()
    assert 10 < int((reached < own).sum()) < own.numel() - 10
    best = torch.maximum(reached, own)
    torch.testing.assert_close(
        found.probability, (best / best.sum(1, keepdim=True)).float(), rtol=1e-5, atol=1e-6
    )
    # the label whose run won, though another class may be likelier where it ended
    assert torch.equal(found.prediction, best.argmax(1))
    assert not torch.equal(found.prediction, found.logits.argmax(1))


class Waves(nn.Module):
    """Logits that rise and fall within a step."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = linear(dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * torch.sin(4.0 * self.network(x))


@every_model
@every_bounds
@pytest.mark.parametrize(("steps", "size"), [(10, None), (5, 0.05)])
def test_cpr_accepts_what_the_published_attack_leaves(
    make: Callable[..., nn.Module], bounds: tuple[float, float], steps: int, size: float | None
) -> None:
    model, x = case(make, bounds)
    radius = 0.1
    found = hf.presets.cpr(model, x, radius=radius, steps=steps, step_size=size, bounds=bounds)
    expected = published.cpr(model, x, radius, size or 2 * radius / steps, steps, bounds)
    close(found.point, expected)
    close(found.logits, model(expected).detach())
    logits = model(x).detach()
    assert torch.equal(found.prediction, logits.argmax(1))
    close(found.probability, torch.softmax(logits, 1).float())
    assert torch.equal(found.confidence, found.probability.amax(1))
    assert torch.equal(found.accepted, model(expected).argmax(1) == logits.argmax(1))
    if (make, bounds) != (convolutional, (0.3, 0.5)):
        assert 0 < int(found.accepted.sum()) < COUNT
