"""The direction of VAT is the first eigenvector of the Fisher information, by a dense solver."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast.training import Recipe
from hcnn_fast.training.losses import divergence, entropy
from hcnn_fast.training.methods import objective_of
from hcnn_fast.training.settings import VirtualAdversarial
from hcnn_fast.training.virtual_adversarial import most_bent_direction


def fisher(jacobian: Tensor, share: Tensor) -> Tensor:  # [C, D], [C] -> [D, D]
    return jacobian.T @ (torch.diag(share) - torch.outer(share, share)) @ jacobian


def bent_net() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4)).double().eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["linear", "bent"])
def test_power_iterations_end_in_the_first_eigenvector(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double() if kind == "linear" else bent_net()
    x = images()
    found = most_bent_direction(model, x, iterations=300, seed=0)
    for n in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z[None])[0], x[n])
        share = torch.softmax(model(x[n]), 0).detach()
        values, vectors = torch.linalg.eigh(fisher(jacobian, share))
        assert values[-1] > 1.05 * values[-2]
        assert float((found[n] @ vectors[:, -1]).abs()) == pytest.approx(1.0, abs=1e-9)


def test_one_iteration_is_one_product_with_the_fisher_information() -> None:
    model, x = nn.Linear(6, 4).double(), images()
    start = most_bent_direction(model, x, iterations=0, seed=4)
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5, dtype=torch.float64))
    found = most_bent_direction(model, x, iterations=1, seed=4)
    for n in range(5):
        share = torch.softmax(model(x[n]), 0).detach()
        product = fisher(model.weight.detach(), share) @ start[n]
        torch.testing.assert_close(found[n], product / product.norm())


def test_a_random_start_moves_where_the_image_itself_would_not() -> None:
    """At r = 0 the divergence has no slope; along the direction found it grows."""
    model, x = bent_net(), images()
    direction = most_bent_direction(model, x, iterations=1, seed=0)
    other = most_bent_direction(model, x, iterations=1, seed=1)
    assert not torch.equal(direction, other)
    with torch.no_grad():
        log_share = torch.log_softmax(model(x), 1)
        grown = divergence(log_share, model(x + 0.1 * direction))
        random = divergence(log_share, model(x + 0.1 * torch.eye(6).double()[:5]))
    assert bool((grown > 0).all())
    assert float(grown.mean()) > float(random.mean())


def test_the_loss_is_cross_entropy_divergence_and_entropy() -> None:
    model, x, y = bent_net(), images(), torch.tensor([0, 1, 2, 3, 0])
    settings = VirtualAdversarial(l2_radius=0.7, weight=0.3)
    recipe = Recipe(method="vat", radius=0.0, entropy_weight=0.2, settings=settings)
    found = objective_of(recipe, torch.device("cpu"))(model, x, y, epoch=0.0, seed=9)
    direction = most_bent_direction(model, x, iterations=1, seed=9)
    logits, moved = model(x), model(x + 0.7 * direction)
    fixed = torch.log_softmax(logits, 1).detach()
    by_hand = nn.functional.cross_entropy(logits, y) + 0.3 * divergence(fixed, moved).mean()
    by_hand = by_hand + 0.2 * entropy(logits).mean()
    torch.testing.assert_close(found.loss, by_hand)
    weights = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found.loss, weights), torch.autograd.grad(by_hand, weights)
    )
