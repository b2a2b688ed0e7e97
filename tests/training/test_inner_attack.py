"""The inner maximisation finds what can be computed in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast.training import attacked_images
from hcnn_fast.training.inner_attack import use_bfloat16


def linear(classes: int, values: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(values, classes)


def corner(model: nn.Linear, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Worst point of a linear model of two classes: each value moves against w_y - w_other."""
    toward = model.weight[1 - labels] - model.weight[labels]  # [B, D]
    return (images + radius * toward.sign()).clamp(images - radius, images + radius).clamp(0, 1)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_linear_model_is_driven_into_its_exact_worst_corner(steps: int) -> None:
    model = linear(2, 12)
    images = torch.rand(6, 12, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    radius = 0.1
    found = attacked_images(
        model,
        images,
        labels,
        radius=radius,
        steps=steps,
        step_size=2 * radius / steps * 1.001,
        seed=3,
    )
    assert torch.equal(found, corner(model, images, labels, radius).detach())


def test_gradient_at_attacked_points_is_that_of_the_robust_logistic_loss() -> None:
    model = nn.Linear(5, 1, dtype=torch.float64)
    torch.manual_seed(0)
    nn.init.normal_(model.weight)
    images = 0.3 + 0.4 * torch.rand(8, 5, dtype=torch.float64)  # the ball stays within [0, 1]
    labels = torch.tensor([0, 1] * 4)
    radius = 0.05

    class TwoLogits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(model(x)), model(x)], 1)

    worst = attacked_images(
        TwoLogits(), images, labels, radius=radius, steps=2, step_size=radius * 1.001, seed=0
    )
    loss = nn.functional.cross_entropy(TwoLogits()(worst), labels)
    found = torch.autograd.grad(loss, list(model.parameters()))
    sign = (2 * labels - 1).double()  # [B]
    margin = sign * model(images)[:, 0] - radius * model.weight.abs().sum()
    closed_form = torch.autograd.grad(
        nn.functional.softplus(-margin).mean(), list(model.parameters())
    )
    torch.testing.assert_close(found, closed_form)
    assert loss.item() == pytest.approx(nn.functional.softplus(-margin).mean().item())


def test_the_start_changes_with_the_seed_and_only_with_it() -> None:
    model = linear(3, 784)
    images = torch.rand(4, 784, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    first, again, other = (
        attacked_images(model, images, labels, radius=0.1, steps=1, step_size=1e-4, seed=seed)
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first - images).abs().max() <= 0.1 + 1e-6
    assert first.min() >= 0.0
    assert first.max() <= 1.0


def test_weights_get_no_gradient_and_images_stay() -> None:
    model = linear(3, 20)
    images = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    copy = images.clone()
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        found = attacked_images(model, images, labels, radius=0.1, steps=3, step_size=0.1, seed=0)
    assert not found.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(images, copy)


def test_radius_0_returns_the_images() -> None:
    images = torch.rand(2, 20)
    labels = torch.tensor([0, 1])
    found = attacked_images(
        linear(3, 20), images, labels, radius=0.0, steps=3, step_size=0.1, seed=0
    )
    assert torch.equal(found, images)


def test_batch_statistics_see_every_pass_of_the_attack() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), linear(2, 6)).train()
    images = torch.rand(8, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(8, dtype=torch.int64)
    attacked_images(model, images, labels, radius=0.1, steps=4, step_size=0.05, seed=0)
    assert int(model[0].num_batches_tracked) == 4  # type: ignore[arg-type]


def test_bfloat16_model_still_yields_float32_points_in_the_ball() -> None:
    model = linear(3, 20)
    images = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    found = attacked_images(
        model, images, labels, radius=0.1, steps=3, step_size=0.1, seed=0, bfloat16=True
    )
    assert found.dtype == torch.float32
    assert (found - images).abs().max() <= 0.1 + 1e-6


def test_an_explicit_precision_is_taken_as_it_is() -> None:
    cpu = torch.device("cpu")
    assert use_bfloat16("bfloat16", cpu)
    assert not use_bfloat16("float32", cpu)
    assert use_bfloat16("auto", cpu) in (True, False)
