"""Losses are what their formulas say, and attacks climb increasing functions of them."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hcnn_fast.training.losses import (
    LOSSES,
    LossName,
    divergence,
    entropy,
    soft_cross_entropy,
)

NAMES: tuple[LossName, ...] = get_args(LossName)
losses = pytest.mark.parametrize("name", NAMES)


def random_logits(rows: int = 400, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 5, (rows,), generator=generator)


def by_hand(name: LossName, z: list[float], y: int) -> float:
    total = sum(math.exp(v) for v in z)
    f = [math.exp(v) / total for v in z]
    wrong = [k for k in range(len(z)) if k != y]
    gap, logit_gap = max(f[k] for k in wrong) - f[y], max(z[k] for k in wrong) - z[y]
    return {
        "cross_entropy": -math.log(f[y]),
        "squared": (1.0 - f[y]) ** 2,
        "cw_f2": max(gap, 0.0),
        "cw_f3": math.log(1.0 + math.exp(gap)),
        "cw_f4": max(0.5 - f[y], 0.0),
        "cw_f6": max(logit_gap, 0.0),
        "cw_f7": math.log(1.0 + math.exp(logit_gap)),
    }[name]


@losses
def test_a_loss_is_its_formula(name: LossName) -> None:
    logits, labels = random_logits()
    expected = [by_hand(name, z, y) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    found = LOSSES[name].value(logits, labels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@losses
def test_what_is_climbed_never_falls_where_the_loss_rises(name: LossName) -> None:
    logits, labels = random_logits()
    order = LOSSES[name].rise(logits, labels).argsort()
    value = LOSSES[name].value(logits, labels)[order]
    assert bool((value.diff() >= -1e-12).all())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"cw_f2", "cw_f3"}))
def test_what_is_climbed_has_a_slope_where_the_model_is_sure(name: LossName) -> None:
    """Logits 60 apart: in float32 these losses are flat there, as margins of probabilities are."""
    logits = torch.tensor([[60.0, 0.0, -5.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(LOSSES[name].rise(logits, torch.tensor([0])).sum(), logits)
    assert float(slope[0, 0]) == pytest.approx(-1.0)


@losses
def test_gradients_are_those_of_finite_differences(name: LossName) -> None:
    logits, labels = random_logits(6, 1.0)
    logits = logits.requires_grad_()
    assert gradcheck(lambda z: LOSSES[name].value(z, labels), logits)
    assert gradcheck(lambda z: LOSSES[name].rise(z, labels), logits)


def test_entropy_divergence_and_soft_cross_entropy_agree_with_each_other() -> None:
    logits, labels = random_logits()
    other = logits.flip(0)
    share = torch.softmax(logits, 1)
    torch.testing.assert_close(entropy(logits), torch.distributions.Categorical(share).entropy())
    gap = soft_cross_entropy(other, share) - entropy(logits)
    torch.testing.assert_close(divergence(share.log(), other), gap)
    one_hot = torch.nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(
        soft_cross_entropy(logits, one_hot), LOSSES["cross_entropy"].value(logits, labels)
    )
    assert float(divergence(share.log(), logits).abs().max()) < 1e-12
