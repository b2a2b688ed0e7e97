"""TRADES: its loss by hand, its maximum by brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast.training import Recipe
from hcnn_fast.training.losses import divergence
from hcnn_fast.training.methods import objective_of
from hcnn_fast.training.objective import StepLoss
from hcnn_fast.training.settings import Trades

RADIUS = 0.1
X = 0.3 + 0.4 * torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Watched(nn.Module):
    """Linear, keeping what it was shown and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.layer = nn.Linear(2, 3, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight *= 6.0
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        logits: Tensor = self.layer(x)
        return logits


def step(model: nn.Module, *, seed: int = 0, **changes: Any) -> StepLoss:
    fields = {"method": "trades", "radius": RADIUS, "attack_steps": 10, "precision": "float32"}
    objective = objective_of(Recipe(**{**fields, **changes}), torch.device("cpu"))
    return objective(model, X, Y, epoch=0.0, seed=seed)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_the_loss_and_both_sides_of_its_gradient_are_those_of_the_formula(beta: float) -> None:
    model = Watched().train()
    found = step(model, settings=Trades(beta=beta))
    modes = [training for training, _ in model.seen]
    assert modes == [False] * 11 + [True, True]
    assert torch.equal(model.seen[-2][1], X)
    worst = model.seen[-1][1]
    by_hand = nn.functional.cross_entropy(model(X), Y)
    by_hand = by_hand + beta * divergence(torch.log_softmax(model(X), 1), model(worst)).mean()
    torch.testing.assert_close(found.loss, by_hand)
    weights = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found.loss, weights), torch.autograd.grad(by_hand, weights)
    )
    assert int(found.right) == int((model(worst).argmax(1) == Y).sum())


def test_the_attack_finds_the_largest_divergence_in_the_ball() -> None:
    """KL(F(x) || F(x')) of a linear model is convex in x': a corner is worst."""
    model = Watched()
    best = torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        log_share = torch.log_softmax(model(X), 1)
        corners = RADIUS * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]]).double()
        all_corners = [divergence(log_share, model(X + corner)) for corner in corners]
        truth = torch.stack(all_corners).amax(0)
    for seed in range(6):
        step(model, seed=seed)
        with torch.no_grad():
            best = torch.maximum(best, divergence(log_share, model(model.seen[-1][1])))
    torch.testing.assert_close(best, truth)


def test_runs_start_near_the_image_and_elsewhere_for_another_seed() -> None:
    starts = []
    for seed in (0, 0, 1):
        model = Watched()
        step(model, seed=seed, attack_steps=1)
        starts.append(model.seen[1][1])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    spread = float((torch.cat(starts) - torch.cat([X] * 3)).std())
    assert 3e-4 < spread < 3e-3
