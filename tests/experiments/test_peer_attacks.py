"""Other libraries' attacks as plain functions: admitted to the ball, counted, and cleaned up."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from small_task import linear
from tiny_classifiers import convolutional, images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.experiments.peer_attacks import SLACK, peer_points
from hcnn_fast.experiments.peer_libraries import PEERS, Peer, PeerBudget, check_installed

RADIUS = 0.05
BUDGET = PeerBudget(steps=4, starts=2, targets=3, queries=12, seed=3)
# Image passes backward for one image that no attack breaks.
RUNS, TARGETED_RUNS = BUDGET.starts, BUDGET.starts * BUDGET.targets
GRADIENT_STEPS = {
    "torchattacks PGD": RUNS * BUDGET.steps,
    "torchattacks APGD-T": TARGETED_RUNS * (BUDGET.steps + 1),
    "Foolbox PGD": RUNS * BUDGET.steps,
    "Foolbox FMN": BUDGET.steps,
    "ART APGD": RUNS * BUDGET.steps,
    "AutoAttack APGD-CE": RUNS * (BUDGET.steps + 1),
    "AutoAttack APGD-T": TARGETED_RUNS * (BUDGET.steps + 1),
    "AutoAttack FAB-T": TARGETED_RUNS * BUDGET.steps,
    "AutoAttack Square": 0,
}

every_peer = pytest.mark.parametrize("name", PEERS)


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of 4 classes and 12 images that it gets right."""
    model = linear(0.6, 1)
    generator = torch.Generator().manual_seed(4)
    x = 0.1 + 0.8 * torch.rand(12, 1, 6, 6, generator=generator)
    return model, x, model(x).argmax(1)


def least_margins(model: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:  # [N]
    """The least margin over the wrong classes in ball and box, in closed form."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    rows = x.double().flatten(1)  # [N, D]
    slope = weight[y][:, None] - weight[None]  # [N, C, D]
    lower, upper = (rows - radius).clamp_min(0.0), (rows + radius).clamp_max(1.0)
    worst = torch.where(slope > 0, lower[:, None], upper[:, None])  # [N, C, D]
    margin = (slope * worst).sum(2) + bias[y][:, None] - bias[None]  # [N, C]
    return margin.scatter(1, y[:, None], torch.inf).amin(1)


def test_the_libraries_of_the_test_extra_are_installed() -> None:
    check_installed()


@every_peer
def test_points_stay_in_ball_and_bounds_and_break_only_what_can_be_broken(
    name: str, task: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = task
    radius = 0.02
    found = peer_points(PEERS[name], model, x, y, radius=radius, budget=BUDGET)
    assert found.point.shape == x.shape
    assert float((found.point - x).abs().max()) <= radius * (1 + 1e-6)
    assert float(found.point.min()) >= 0.0
    assert float(found.point.max()) <= 1.0
    broken = model(found.point).argmax(1) != y  # [N]
    breakable = least_margins(model, x, y, radius) < 0.0  # [N]
    assert not bool((broken & ~breakable).any())
    assert 0 < int(breakable.sum()) < len(x)
    if name.endswith("APGD-T"):  # sign steps of twice the radius end in the corner
        assert torch.equal(broken, breakable)
    assert bool(broken.any())


@every_peer
def test_the_budget_is_what_was_said(name: str, task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = task
    found = peer_points(PEERS[name], model, x[:3], y[:3], radius=1e-4, budget=BUDGET)
    assert found.gradient_steps == 3 * GRADIENT_STEPS[name]
    assert found.queries > 0
    if GRADIENT_STEPS[name] == 0:
        assert BUDGET.queries <= found.queries / 3 <= BUDGET.queries + 4


@every_peer
def test_a_point_does_not_depend_on_its_neighbours_and_comes_again(
    name: str, task: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = task
    settings = {"radius": RADIUS, "budget": BUDGET}
    several = peer_points(PEERS[name], model, x[:4], y[:4], **settings)
    alone = peer_points(PEERS[name], model, x[2:3], y[2:3], **settings)
    assert torch.equal(several.point[2:3], alone.point)


@every_peer
def test_model_gradients_mode_and_random_states_are_left_alone(name: str) -> None:
    model, x = convolutional(), images(2)
    y, copy = model(x).argmax(1), x.clone()
    model.train()
    frozen = next(model.parameters()).requires_grad_(False)
    kept = torch.ones_like(model[5].weight)
    model[5].weight.grad = kept
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    random.seed(5)
    numpy.random.seed(5)  # noqa: NPY002  # the generator that libraries use
    torch.manual_seed(5)
    expected = random.random(), numpy.random.random(), float(torch.rand(()))  # noqa: NPY002
    random.seed(5)
    numpy.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    peer_points(PEERS[name], model, x, y, radius=RADIUS, budget=BUDGET)
    assert (random.random(), numpy.random.random(), float(torch.rand(()))) == expected  # noqa: NPY002
    assert torch.equal(x, copy)
    assert model.training
    assert all(module.training for module in model.modules())
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)
    assert model[5].weight.grad is kept
    assert bool((kept == 1).all())
    assert all(p.grad is None for p in model.parameters() if p is not model[5].weight)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert not model._forward_hooks


@every_peer
def test_a_defence_is_attacked_through_its_search(
    name: str, task: tuple[nn.Module, Tensor, Tensor]
) -> None:
    """With balls that reach every boundary the attacker breaks what the base alone would not."""
    model, x, y = task
    defense = hf.Defense(model, hf.SearchConfig.mcn(RADIUS, steps=3))
    budget = PeerBudget(steps=6, starts=1, targets=3, queries=40)
    found = peer_points(PEERS[name], defense, x[:4], y[:4], radius=0.3, budget=budget)
    assert found.queries > 0
    assert (found.gradient_steps > 0) == (name != "AutoAttack Square")
    assert bool((defense(found.point).argmax(1) != y[:4]).any())


def stray(beyond: float) -> Peer:
    """A library that leaves the ball by a distance."""

    def step_out(
        model: nn.Module, x: Tensor, y: Tensor, radius: float, budget: PeerBudget
    ) -> Tensor:
        return x + radius + beyond

    return step_out


def test_points_that_rounding_put_outside_are_clipped_and_counted() -> None:
    model, x = linear(0.6, 1), torch.full((2, 1, 6, 6), 0.5)
    y = model(x).argmax(1)
    found = peer_points(stray(0.1 * SLACK), model, x, y, radius=0.25, budget=BUDGET)
    assert found.clipped.tolist() == [True, True]
    assert torch.equal(found.point, x + 0.25)
    found = peer_points(stray(0.0), model, x, y, radius=0.25, budget=BUDGET)
    assert found.clipped.tolist() == [False, False]
    white = torch.ones(1, 1, 6, 6)  # where the bounds are nearer than the ball's end
    found = peer_points(stray(0.1 * SLACK - 0.25), model, white, y[:1], radius=0.25, budget=BUDGET)
    assert found.clipped.tolist() == [True]
    assert torch.equal(found.point, white)


@pytest.mark.parametrize("beyond", [2 * SLACK, float("nan")], ids=["far", "nan"])
def test_points_further_out_are_refused(beyond: float) -> None:
    model, x = linear(0.6, 1), torch.full((2, 1, 6, 6), 0.5)
    with pytest.raises(RuntimeError, match="step_out left ball or bounds by"):
        peer_points(stray(beyond), model, x, model(x).argmax(1), radius=0.25, budget=BUDGET)


def test_missing_libraries_are_named_with_the_extra_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "art" or None)
    with pytest.raises(ImportError) as refusal:
        check_installed()
    assert str(refusal.value) == (
        'adversarial-robustness-toolbox is missing: pip install "hcnn_fast[peers]"'
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^torchattacks, foolbox, .*, pyautoattack are missing"):
        check_installed()
