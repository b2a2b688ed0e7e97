"""APGD-T against a sample-by-sample loop of the published rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

from hcnn_fast.attacks import apgd_targeted
from hcnn_fast.attacks.apgd import checkpoints
from hcnn_fast.attacks.runs import Runs, posed
from hcnn_fast.config import SearchConfig


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def target_loss(z: Tensor, y: int, t: int, objective: str) -> Tensor:  # of one row of logits
    if objective == "margin":
        return z[t] - z[y]
    top = z.sort(descending=True).values
    return (z[t] - z[y]) / (top[0] - 0.5 * (top[2] + top[3]) + 1e-12)


def published_apgd(
    model: Any, x: Tensor, start: Tensor, y: int, t: int, radius: float, steps: int, objective: str
) -> tuple[Tensor, float, int]:
    """Best point of one run in the l_inf ball, its loss, and how often the step was halved."""

    def look(z: Tensor) -> tuple[float, Tensor]:
        leaf = z.clone().requires_grad_()
        loss = target_loss(model(leaf[None])[0], y, t, objective)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.item(), gradient

    def clip(z: Tensor) -> Tensor:
        return z.clamp(x - radius, x + radius).clamp(0.0, 1.0)

    size, halvings, judged, last = 2 * radius, 0, checkpoints(steps), 0
    z, previous = start, start
    loss, gradient = look(z)
    best = (loss, z, gradient)
    best_then, halved, rises = loss, False, 0
    for k in range(1, steps + 1):
        moved = clip(z + size * gradient.sign())
        if k > 1:
            moved = clip(z + 0.75 * (moved - z) + 0.25 * (z - previous))
        previous, z, old = z, moved, loss
        loss, gradient = look(z)
        rises += loss > old
        if loss > best[0]:
            best = (loss, z, gradient)
        if k in judged:
            few = rises < 0.75 * (k - last)
            flat = not halved and best[0] <= best_then
            halved = few or flat
            if halved:
                size, halvings = size / 2, halvings + 1
                loss, z, gradient = best
            best_then, rises, last = best[0], 0, k
    return best[1], best[0], halvings


@pytest.mark.parametrize("objective", ["margin", "dlr"])
@pytest.mark.parametrize("steps", [1, 6, 80])
def test_every_run_ends_where_the_published_loop_ends(objective: Any, steps: int) -> None:
    network, x = convolutional(dtype=torch.float64), images(12, dtype=torch.float64)

    def model(z: Tensor) -> Tensor:  # so curved that steps overshoot
        return network(0.5 + 0.5 * torch.sin(40.0 * z))

    y = model(x).argmax(1)
    settings: dict[str, Any] = {"radius": 0.2, "objective": objective, "targets": 1}
    result = apgd_targeted(model, x, y, steps=steps, **settings)
    target = model(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    starts = start_points(model, x, y, target, 0.2)
    halvings = 0
    for n in range(len(x)):
        best, loss, halved = published_apgd(
            model, x[n], starts[n], int(y[n]), int(target[n]), 0.2, steps, objective
        )
        torch.testing.assert_close(result.point[n], best, rtol=0.0, atol=1e-9)
        assert float(result.value[n]) == pytest.approx(loss, rel=1e-5, abs=1e-6)
        halvings += halved
    assert halvings > 0 or steps < 6


def test_a_step_that_was_just_halved_is_given_time() -> None:
    """Beyond a cliff the loss rises slowly: a run that fell there rises without a new best."""

    def model(z: Tensor) -> Tensor:
        beyond = z[:, 0] > 0.5
        loss = torch.where(beyond, 0.01 * z[:, 0] - 1.0, z[:, 0])
        return torch.stack([torch.zeros_like(loss), loss], 1)

    x, y = torch.full((24, 2), 0.5, dtype=torch.float64), torch.zeros(24).long()
    x[:, 1] = torch.linspace(0.1, 0.9, 24)  # of no effect, but no two start alike
    starts = start_points(model, x, y, torch.ones_like(y), 0.4)
    result = apgd_targeted(model, x, y, radius=0.4, objective="margin")
    for n in range(len(x)):
        best, loss, _ = published_apgd(model, x[n], starts[n], 0, 1, 0.4, 100, "margin")
        torch.testing.assert_close(result.point[n], best, rtol=0.0, atol=1e-12)
        assert float(result.value[n]) == pytest.approx(loss, abs=1e-6)


def start_points(model: Any, x: Tensor, y: Tensor, target: Tensor, radius: float) -> Tensor:
    """Where the first run of each image begins."""
    with posed(model, x, y, SearchConfig.mcn(radius)) as problem:
        runs = Runs(
            index=torch.arange(len(x)), label=y, target=target, start=torch.zeros_like(target)
        )
        return problem.uniform_points(runs)


def test_targets_are_the_likeliest_wrong_classes_in_order() -> None:
    model, x = linear(), images(20)
    logits = model(x).detach()
    y = logits.argmax(1)
    y[::2] = 3  # some labels are wrong already
    few = apgd_targeted(model, x, y, radius=0.2, steps=3, objective="margin", targets=2)
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
    target = wrong.gather(1, few.attempt[:, None])[:, 0]
    there = model(few.point).detach()
    rows = torch.arange(20)
    torch.testing.assert_close(few.value, there[rows, target] - there[rows, y])
    assert set(few.attempt.tolist()) == {0, 1}
    every = apgd_targeted(model, x, y, radius=0.2, steps=3, objective="margin")
    assert every.gradient_steps == 20 * 4 * 3  # nine where there are as many
    assert bool((every.success >= few.success).all())
