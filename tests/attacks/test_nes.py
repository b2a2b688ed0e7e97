"""NES: the mean and the covariance of its estimate, where it is taken, and where it leads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import images, linear
from torch import Tensor

from hcnn_fast.attacks import nes
from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block
from hcnn_fast.attacks.nes import estimate, normal
from hcnn_fast.config import SearchConfig

WIDE = (-100.0, 100.0)


def in_a_block(model: Any, x: Tensor, objective: Any, look: Any) -> Any:
    """What `look` returns about a block of images under attack."""
    found: list[Any] = []

    def attack(block: Block) -> None:
        found.append(look(block))

    config = SearchConfig.mcn(1.0, bounds=WIDE)
    run_in_blocks(model, x, torch.zeros(len(x)).long(), config, attack, objective=objective)
    return found[0]


def test_directions_are_independent_standard_normals() -> None:
    x = images(50, (8,), dtype=torch.float64)
    drawn = in_a_block(
        linear((8,), dtype=torch.float64),
        x,
        "margin",
        lambda block: torch.stack([normal(block, 0, k) for k in range(200)]),
    )  # [200, 50, 8]
    rows = drawn.view(-1, 8)  # 10,000 vectors
    flat = drawn.flatten().sort().values
    below = 0.5 * (1.0 + torch.erf(flat / 2**0.5))
    steps = torch.arange(1, len(flat) + 1, dtype=torch.float64) / len(flat)
    assert float((below - steps).abs().max()) < 2.0 / len(flat) ** 0.5  # Kolmogorov-Smirnov
    assert float((rows.T.cov() - torch.eye(8)).abs().max()) < 5 * 2**0.5 / 100
    assert float((drawn[1:] * drawn[:-1]).mean().abs()) < 5 / len(flat) ** 0.5
    assert float((drawn[:, 1:] * drawn[:, :-1]).mean().abs()) < 5 / len(flat) ** 0.5


@pytest.mark.parametrize("pairs", [1, 5])
def test_the_estimate_of_a_linear_gradient_has_its_mean_and_covariance(pairs: int) -> None:
    # (u . w) u of one pair: mean w, covariance |w|^2 I + w w^T; the mean of P pairs: one P-th of it
    model, x = linear((6,), 2, dtype=torch.float64), images(200, (6,), dtype=torch.float64)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    repeats = 100

    def look(block: Block) -> Tensor:
        draws = [range(k * pairs, (k + 1) * pairs) for k in range(repeats)]
        return torch.cat([estimate(block, x, 0, some, 0.01, WIDE) for some in draws])

    estimates = in_a_block(model, x, "margin", look)  # [20000, 6]
    count = len(estimates)
    expected = ((w @ w) * torch.eye(6) + torch.outer(w, w)) / pairs
    off = (estimates.mean(0) - w).abs() / (expected.diagonal() / count).sqrt()
    assert float(off.max()) < 4.5
    spread = estimates.T.cov()
    scale = expected.diagonal().sqrt()
    relative = (spread - expected) / (scale[:, None] * scale)
    assert float(relative.abs().max()) < 0.08  # the fourth moments of a product of normals


def test_the_estimate_of_a_quadratic_is_that_of_its_gradient_at_the_iterate() -> None:
    # f = -|z|^2 / 2: a pair gives -(u . z) u, with mean -z, whatever sigma is
    def half_square(z: Tensor, y: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1)

    x = images(4, (5,), dtype=torch.float64)
    point = x + torch.tensor([1.0, -2.0, 3.0, 0.0, 5.0])
    for sigma in (0.01, 1.0):
        found = in_a_block(
            linear((5,), dtype=torch.float64),
            x,
            half_square,
            lambda block, sigma=sigma: estimate(block, point, 0, range(4000), sigma, WIDE),
        )
        error = (found + point).norm(dim=1) / point.norm(dim=1)
        assert float(error.max()) < 4.0 * (6 / 4000) ** 0.5


def test_pairs_are_asked_about_around_the_accepted_point() -> None:
    model = linear((7,), 3, dtype=torch.float64)
    seen: list[Tensor] = []

    def recording(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return model(z)

    x = images(3, (7,), dtype=torch.float64)
    y = torch.zeros(3).long()
    nes(recording, x, y, radius=0.5, steps=25, pairs=3, bounds=WIDE, step_size=0.2)
    assert torch.equal(seen[0], x)
    point = seen[1]
    assert torch.equal(point, x)  # the first start

    def value(z: Tensor) -> Tensor:
        logits = torch.log_softmax(model(z), 1).detach()
        return logits[:, 1:].amax(1)

    refused = 0
    for asked, moved in zip(seen[2::2], seen[3::2], strict=True):
        ahead, behind = asked.view(2, 3, 3, 7)
        torch.testing.assert_close((ahead + behind) / 2, point.expand(3, 3, 7), rtol=0, atol=1e-12)
        assert float((ahead - behind).abs().min()) > 0.0
        rises = value(moved) >= value(point)
        refused += int((~rises).sum())
        point = torch.where(rises[:, None], moved, point)
    assert refused > 0


def test_a_linear_model_is_led_to_its_corner() -> None:
    model, x = linear((30,), 2, dtype=torch.float64), images(6, (30,), dtype=torch.float64)
    y = torch.arange(6) % 2
    result = nes(model, x, y, radius=0.1, steps=150, objective="margin", bounds=WIDE)
    w = (model[1].weight[1] - model[1].weight[0]).detach()
    logits = model(x).detach()
    margin = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    share = (result.value - margin) / (0.1 * w.abs().sum())
    assert bool((share <= 1.0 + 1e-6).all())
    assert float(share.min()) > 0.97


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("pairs", 0, ValueError),
        ("pairs", True, TypeError),
        ("sigma", 0.0, ValueError),
        ("sigma", float("nan"), ValueError),
        ("steps", 0, ValueError),
        ("step_size", -1.0, ValueError),
        ("momentum", 1.0, ValueError),
        ("backtrack", 0.5, ValueError),
        ("backtrack", "yes", TypeError),
    ],
)
def test_bad_settings_are_named(keyword: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=keyword):
        nes(linear(), images(), torch.zeros(4).long(), radius=0.1, **{keyword: value})
