"""Adversarial training of linear models ends where a convex solver does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize
from softmax_regression import interval, random_regression, worst_cross_entropy, worst_margin
from torch import Tensor, nn

from hcnn_fast.training import Recipe, attacked_images
from hcnn_fast.training.adversarial import Adversarial
from hcnn_fast.training.losses import LOSSES, entropy

RADIUS = 0.05


class Logistic(nn.Module):
    """Logits (0, w.x + b)."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.layer = nn.Linear(values, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        score = self.layer(x)
        return torch.cat([torch.zeros_like(score), score], 1)


def overlapping_classes() -> tuple[Tensor, Tensor]:
    """120 points in [0.2, 0.8]^4, so that no ball meets the bounds, and noisy labels."""
    generator = torch.Generator().manual_seed(3)
    x = 0.2 + 0.6 * torch.rand(120, 4, generator=generator, dtype=torch.float64)
    score = (x - 0.5) @ torch.tensor([9.0, -7.0, 5.0, 6.0], dtype=torch.float64)
    noise = torch.randn(120, generator=generator, dtype=torch.float64)
    return x, (score + 0.8 * noise > 0).long()


def solved(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """w and b of least mean log(1 + exp(-(m - eps |w|_1))), w split into its two signs: smooth."""
    sign = 2.0 * y - 1.0

    def cost(split: np.ndarray) -> tuple[float, np.ndarray]:
        plus, minus, bias = split[:4], split[4:8], split[8]
        margin = sign * (x @ (plus - minus) + bias) - RADIUS * (plus + minus).sum()
        pull = -1.0 / (1.0 + np.exp(margin)) / len(x)  # derivative in the margin
        along = (pull * sign) @ x
        gradient = np.concatenate(
            [along - RADIUS * pull.sum(), -along - RADIUS * pull.sum(), [(pull * sign).sum()]]
        )
        return float(np.logaddexp(0.0, -margin).mean()), gradient

    found = optimize.minimize(
        cost,
        np.full(9, 0.1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * 8 + [(None, None)],
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10_000},
    )
    return np.append(found.x[:4] - found.x[4:8], found.x[8])


def test_training_ends_at_the_weights_of_the_convex_solver() -> None:
    x, y = overlapping_classes()
    recipe = Recipe(radius=RADIUS, attack_steps=1, attack_step_size=2.001, precision="float32")
    objective = Adversarial(recipe=recipe)
    torch.manual_seed(0)
    model = Logistic(4)
    optimiser = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.95, nesterov=True)
    for step in range(2000):
        optimiser.zero_grad()
        objective(model, x, y, epoch=0.0, seed=step).loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    found = torch.cat([model.layer.weight.detach()[0], model.layer.bias.detach()]).numpy()
    truth = solved(x.numpy(), y.numpy())
    assert np.abs(truth[:4]).min() > 0.5  # no kink of |w|_1 nearby
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_raised_to_its_worst_case_on_a_linear_model_of_two_classes(
    name: str,
) -> None:
    """All of them are largest at the corner against the label."""
    x, y = overlapping_classes()
    torch.manual_seed(1)
    model = Logistic(4)
    recipe = Recipe(
        radius=RADIUS,
        loss=name,  # type: ignore[arg-type]
        attack_steps=3,
        attack_step_size=0.7,
        precision="float32",
    )
    with torch.no_grad():
        sign = 2.0 * y - 1.0
        margin = sign * model.layer(x)[:, 0] - RADIUS * model.layer.weight.abs().sum()
        worst = torch.stack([margin, torch.zeros_like(margin)], 1)  # the label first
        truth = LOSSES[name].value(worst, torch.zeros_like(y)).mean()  # type: ignore[index]
    found = Adversarial(recipe=recipe)(model, x, y, epoch=0.0, seed=0)
    torch.testing.assert_close(found.loss.detach(), truth)
    assert int(found.right) == int((margin > 0).sum())


@pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])
def test_several_classes_are_raised_to_the_closed_forms_of_margin_and_cross_entropy(
    box: bool,
) -> None:
    """K margins in closed form, and all corners for the cross-entropy; the best of 8 starts."""
    weight, bias, x, bounds = random_regression(5, box=box, dimension=6, images=8)
    labels = (x @ weight.T + bias).argmax(1)
    low, high = interval(x, 0.1, bounds)
    model = nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight))
        model.bias.copy_(torch.from_numpy(bias))
    y = torch.from_numpy(labels)
    loss = LOSSES["cw_f6"]

    def reached(margin: bool) -> np.ndarray:
        best = []
        for seed in range(8):
            found = attacked_images(
                model,
                torch.from_numpy(x),
                y,
                radius=0.1,
                steps=10,
                step_size=0.03,
                seed=seed,
                rise=(lambda logits: loss.rise(logits, y)) if margin else None,
                bounds=bounds,
            )
            with torch.no_grad():
                logits = model(found)
            value = loss.rise(logits, y) if margin else LOSSES["cross_entropy"].value(logits, y)
            best.append(value.numpy())
        return np.max(best, axis=0)

    corners = [worst_cross_entropy(weight, bias, low[n], high[n], k) for n, k in enumerate(labels)]
    np.testing.assert_allclose(reached(margin=False), corners, rtol=1e-9)
    margins = [worst_margin(weight, bias, low[n], high[n], int(k)) for n, k in enumerate(labels)]
    np.testing.assert_allclose(reached(margin=True), margins, rtol=1e-9, atol=1e-12)


class ManyAgainstOne(nn.Module):
    """To the right one wrong class gains 3, to the left eight gain 2: losses differ in the worse.

    Only the first value of an image counts; the second tells images apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        along = x[:, :1] - 0.5
        return along * torch.tensor([0.0, 3.0] + [-2.0] * 8, dtype=x.dtype)


def ends(name: str, entropy_weight: float = 0.0) -> Tensor:  # [32] 1 to the right, -1 to the left
    """Where one long step leads, once it was seen to be uphill for this loss."""
    x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0] = 0.5
    y = torch.zeros(32, dtype=torch.int64)
    recipe = Recipe(
        radius=0.4,
        loss=name,  # type: ignore[arg-type]
        entropy_weight=entropy_weight,
        attack_steps=1,
        attack_step_size=2.001,
        precision="float32",
    )
    model = ManyAgainstOne()
    Adversarial(recipe=recipe)(model, x, y, epoch=0.0, seed=0)
    start, end = model.seen
    nearby = torch.tensor([1e-5, 0.0], dtype=torch.float64)

    def value(point: Tensor) -> Tensor:
        logits = model(point)
        return LOSSES[name].value(logits, y) + entropy_weight * entropy(logits)  # type: ignore[index]

    rise = value(start + nearby) - value(start - nearby)
    assert bool((rise != 0.0).all())
    found = (end - x)[:, 0].sign()
    assert torch.equal(found, rise.sign())
    return found


def test_every_loss_is_climbed_along_its_own_slope() -> None:
    found = {name: ends(name) for name in LOSSES}
    assert torch.equal(found["cross_entropy"], found["squared"])  # both fall with F_y
    assert torch.equal(found["cw_f6"], found["cw_f7"])  # both rise with the margin
    assert not torch.equal(found["cross_entropy"], found["cw_f6"])
    assert not torch.equal(ends("cross_entropy", 50.0), found["cross_entropy"])
