"""The bounds on wrong confidence hold wherever the worst case can be computed, and are tight."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from softmax_regression import (
    interval,
    most_probable,
    random_regression,
    worst_cross_entropy,
    worst_margin,
)
from torch import Tensor, nn

from hcnn_fast.training.bounds import error_bound, least_loss, wrong_confidence_bound
from hcnn_fast.training.losses import LOSSES, LossName

NAMES: tuple[LossName, ...] = get_args(LossName)
CONFIDENCES = (0.3, 0.5, 0.6, 0.75, 0.9, 0.99)
losses = pytest.mark.parametrize("name", NAMES)


def tiny_net(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        with torch.no_grad():
            net[0].weight *= 3.0
            net[2].weight *= 8.0
    return net


def everywhere(seed: int) -> tuple[Tensor, Tensor]:
    """Logits [N, M, C] of 40 points at all M perturbations of a grid, and labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(40, 1, 2, generator=generator, dtype=torch.float64)
    side = torch.linspace(-0.3, 0.3, 9, dtype=torch.float64)
    moves = torch.cartesian_prod(side, side)  # [M, 2]
    net = tiny_net(seed)
    with torch.no_grad():
        labels = net(x[:, 0]).argmax(1)
        labels[::5] = (labels[::5] + 1) % 4  # some points are wrong already
        return net(x + moves), labels


def worst(name: LossName, logits: Tensor, labels: Tensor) -> float:
    """rho: the mean over N points of the largest loss over M perturbations."""
    points, moves, classes = logits.shape
    value = LOSSES[name].value(logits.reshape(-1, classes), labels.repeat_interleave(moves))
    return float(value.view(points, moves).amax(1).mean())


def wrong_confidence(logits: Tensor, labels: Tensor) -> Tensor:  # [N]
    """The largest probability of a wrong class over all perturbations."""
    share = torch.softmax(logits, 2)  # [N, M, C]
    label = labels[:, None, None].expand(*share.shape[:2], 1)
    return share.scatter(2, label, -1.0).amax((1, 2))


@losses
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_on_tiny_nets_by_enumeration(name: LossName, seed: int) -> None:
    logits, labels = everywhere(seed)
    rho, confidence = worst(name, logits, labels), wrong_confidence(logits, labels)
    shares = [float((confidence >= p).double().mean()) for p in CONFIDENCES]
    assert shares[2] > 0.1
    for p, share in zip(CONFIDENCES, shares, strict=True):
        assert share <= wrong_confidence_bound(name, rho, p) + 1e-12
    wrong = (logits.argmax(2) != labels[:, None]).any(1)
    assert float(wrong.double().mean()) <= error_bound(name, rho) + 1e-12


@losses
@pytest.mark.parametrize("p", [0.6, 0.75, 0.9, 0.99])
def test_bounds_are_met_where_a_share_sits_just_at_p(name: LossName, p: float) -> None:
    """3 of 10 points have F_k = p for one wrong class and F_y = 1 - p, the others no loss."""
    hit = torch.tensor([math.log(1 - p), math.log(p), -80.0], dtype=torch.float64)
    safe = torch.tensor([900.0, 0.0, 0.0], dtype=torch.float64)
    logits = torch.stack([hit] * 3 + [safe] * 7)[:, None]  # [10, 1, 3]
    rho = worst(name, logits, torch.zeros(10, dtype=torch.int64))
    bound = wrong_confidence_bound(name, rho, p)
    floor = 0.7 * math.log1p(math.exp(-1.0)) if name == "cw_f3" else 0.0  # which is never 0
    assert bound == pytest.approx(0.3 + floor / least_loss(name, p), rel=1e-9)
    assert bound >= 0.3 - 1e-12


@losses
def test_error_bound_is_met_on_the_decision_boundary(name: LossName) -> None:
    edge = torch.tensor([0.0, 0.0, -80.0], dtype=torch.float64)
    rho = 0.2 * float(LOSSES[name].value(edge[None], torch.tensor([0])))
    vacuous = name in ("cw_f2", "cw_f4", "cw_f6")  # 0 on the boundary
    assert error_bound(name, rho) == pytest.approx(1.0 if vacuous else 0.2)


def test_constants_of_the_table() -> None:
    for p, divisor in ((0.9, 2.303), (0.95, 2.996), (0.99, 4.605)):
        assert least_loss("cross_entropy", p) == pytest.approx(divisor, abs=5e-4)
        assert wrong_confidence_bound("cw_f7", 0.1, p) == pytest.approx(0.1 / divisor, rel=1e-3)
    expected = {"squared": 0.81, "cw_f2": 0.8, "cw_f4": 0.4, "cw_f6": math.log(9.0)}
    for name, least in expected.items():
        assert least_loss(name, 0.9) == pytest.approx(least)  # type: ignore[arg-type]
    assert least_loss("cw_f3", 0.9) == pytest.approx(math.log(1.0 + math.exp(0.8)))
    assert wrong_confidence_bound("squared", 5.0, 0.9) == 1.0
    assert wrong_confidence_bound("cw_f4", 0.0, 0.4) == 1.0  # says nothing below 1/2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])
def test_bounds_hold_on_softmax_regression_over_the_whole_ball(seed: int, box: bool) -> None:
    """B by convex programmes, the worst losses at corners of the ball."""
    radius = 0.2
    weight, bias, x, bounds = random_regression(seed, box=box, dimension=6, classes=3, images=8)
    labels = (x @ weight.T + bias).argmax(1)
    low, high = interval(x, radius, bounds)
    entropy, margin, sure = [], [], []
    for n, y in enumerate(labels.tolist()):
        entropy.append(worst_cross_entropy(weight, bias, low[n], high[n], y))
        margin.append(worst_margin(weight, bias, low[n], high[n], y))
        wrong = [k for k in range(3) if k != y]
        sure.append(max(most_probable(weight, bias, x[n], radius, bounds, k) for k in wrong))
    label_share = np.exp(-np.array(entropy))  # the least F_y in the ball
    rho = {
        "cross_entropy": np.mean(entropy),
        "squared": np.mean((1.0 - label_share) ** 2),
        "cw_f4": np.mean(np.maximum(0.5 - label_share, 0.0)),
        "cw_f6": np.mean(np.maximum(margin, 0.0)),
        "cw_f7": np.mean(np.logaddexp(0.0, margin)),
    }
    assert max(sure) > 0.5
    for p in CONFIDENCES:
        share = np.mean(np.array(sure) >= p)
        for name, mean in rho.items():
            assert share <= wrong_confidence_bound(name, float(mean), p) + 1e-12  # type: ignore[arg-type]


@losses
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_on_binary_logistic_regression_in_closed_form(
    name: LossName, seed: int
) -> None:
    """Over the whole ball: all losses are largest where the margin is m - eps |w|_1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(10, generator=generator, dtype=torch.float64)
    margin = torch.randn(50, generator=generator, dtype=torch.float64) * 2.0 + 1.0
    margin = margin - 0.1 * weight.abs().sum()
    logits = torch.stack([margin, torch.zeros_like(margin)], 1)  # [N, 2], label 0
    rho = float(LOSSES[name].value(logits, torch.zeros(50, dtype=torch.int64)).mean())
    for p in CONFIDENCES:
        share = float((torch.sigmoid(-margin) >= p).double().mean())
        assert share <= wrong_confidence_bound(name, rho, p)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hinge", 0.1, 0.9), "loss is 'hinge'"),
        (("squared", -0.1, 0.9), "worst_loss is -0.1"),
        (("squared", math.nan, 0.9), "worst_loss is nan"),
        (("squared", 0.1, 1.0), "confidence is 1.0"),
        (("squared", 0.1, 0.0), "confidence is 0.0"),
    ],
)
def test_what_bounds_nothing_is_refused(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong_confidence_bound(*arguments)  # type: ignore[arg-type]
