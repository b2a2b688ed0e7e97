"""All rivals do the same work: the same steps from the same image to the same confidences."""

from __future__ import annotations

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.measurement.rivals import (
    RIVALS,
    UNCLOCKED,
    _gradients_left_alone,
    missing,
    plain_loop,
)

RADIUS, STEPS = 0.05, 5
STEP_SIZE = 2.5 * RADIUS / STEPS
TOLERANCE = 1e-4

every_rival = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "compiled" else name for name in RIVALS],
)
# Compiling takes long: the linear model will do here; bench_rivals compares on the others.
not_compiled = pytest.mark.parametrize("name", sorted(RIVALS.keys() - {"compiled"}))
# Warnings of other people's packages, on import and in use.
of_others = pytest.mark.filterwarnings("ignore")


def skip_unless_installed(name: str) -> None:
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def fashion() -> tuple[torch.nn.Module, Tensor]:
    x = hf.data.load("fashion-mnist-sample", "test").scaled()[:3]
    return hf.models.load("fashion-adversarial"), x


@of_others
@not_compiled
def test_every_rival_reaches_the_confidences_of_the_plain_loop(
    name: str, fashion: tuple[torch.nn.Module, Tensor]
) -> None:
    skip_unless_installed(name)
    model, x = fashion
    expected = plain_loop(model, x, RADIUS, STEPS, STEP_SIZE)
    reached = RIVALS[name](model, x, RADIUS, STEPS, STEP_SIZE)
    assert reached.shape == (3, 10)
    torch.testing.assert_close(reached, expected, rtol=0, atol=TOLERANCE)
    other = RIVALS[name](model, x, RADIUS, STEPS - 1, STEP_SIZE)
    assert float((other - expected).abs().max()) > 10 * TOLERANCE  # a step missing would show


def test_the_search_reaches_them_too_by_the_same_steps(
    fashion: tuple[torch.nn.Module, Tensor],
) -> None:
    """It keeps the best point on the way, which can only be better than the last one."""
    model, x = fashion
    reached = plain_loop(model, x, RADIUS, STEPS, STEP_SIZE).amax(1)
    config = hf.SearchConfig.mcn(RADIUS, steps=STEPS, schedule="constant", momentum=0.0)
    gained = hf.search(model, x, config).value - reached
    assert float(gained.min()) > -TOLERANCE
    assert float(gained.max()) < 50 * TOLERANCE
    fewer = plain_loop(model, x, RADIUS, 1, STEP_SIZE).amax(1)
    assert float((fewer - reached).min()) < -100 * TOLERANCE  # as one step would be


@of_others
@every_rival
def test_a_linear_model_ends_in_the_corner_of_closed_form(name: str) -> None:
    """Two classes: log F_l rises along +-(w_l - w_other), so the ball's corner is best."""
    skip_unless_installed(name)
    model = linear((3, 4, 4), 2)
    x = images(4) * 0.5 + 0.25  # the ball stays inside the bounds
    weight, bias = model[1].weight.detach(), model[1].bias.detach()  # [2, 48], [2]
    direction = (weight[0] - weight[1]).sign().view(3, 4, 4)
    reached = RIVALS[name](model, x, RADIUS, STEPS, STEP_SIZE)
    for label, towards in ((0, direction), (1, -direction)):
        corner = x + RADIUS * towards
        best = torch.softmax(corner.flatten(1) @ weight.T + bias, 1)[:, label]
        torch.testing.assert_close(reached[:, label], best, rtol=0, atol=1e-5)


@of_others
@not_compiled
def test_a_rival_leaves_flags_gradients_and_mode_as_they_were(name: str) -> None:
    skip_unless_installed(name)
    model = convolutional()
    frozen = next(model.parameters()).requires_grad_(False)
    kept = torch.ones_like(model[5].weight)
    model[5].weight.grad = kept
    RIVALS[name](model, images(2), RADIUS, 2, RADIUS / 2)
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)
    assert model[5].weight.grad is kept
    assert bool((kept == 1).all())
    assert all(p.grad is None for p in model.parameters() if p is not model[5].weight)
    assert not model.training


def test_gradients_that_a_library_accumulates_are_taken_back() -> None:
    model = linear()
    weight, bias = model[1].weight, model[1].bias
    kept = torch.full_like(bias, 3.0)
    bias.grad = kept
    with _gradients_left_alone(model):
        model(images(2)).sum().backward()
        assert weight.grad is not None
        assert bias.grad is not kept
    assert weight.grad is None
    assert bias.grad is kept
    assert bool((kept == 3.0).all())


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing("art") == (
        "adversarial-robustness-toolbox is not installed; "
        "run: pip install adversarial-robustness-toolbox"
    )
    assert missing("plain") is None


def test_only_known_rivals_are_unclocked() -> None:
    assert UNCLOCKED.keys() <= RIVALS.keys()
