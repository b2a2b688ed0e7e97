"""The losses whose worst case in the ball bounds wrong confidence (Wu et al. 2018, section 3).

In the names of Carlini and Wagner (2017), f2 to f7 are untargeted here: the label takes the place
of the target. f3 and f7 are without their constant -log 2, so that no loss is negative. Their f5
is left out: as printed, its logarithm is of a negative number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hcnn_fast.attacks.losses import LOSSES as ATTACKED

LossName = Literal["cross_entropy", "squared", "cw_f2", "cw_f3", "cw_f4", "cw_f6", "cw_f7"]
OfLogits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """A loss to be minimised at its maximum over a ball.

    Attributes:
        value: (logits [B, C], labels [B]) -> [B], >= 0, differentiable.
        rise: the same with an increasing function of it, whose gradient does not vanish where the
            loss is flat: what an attack climbs in its place.
        least: the loss that a point has at least where a wrong class has confidence p: tau(1 - p).
    """

    value: OfLogits
    rise: OfLogits
    least: Callable[[float], float]


def _margin(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
) -> Tensor:  # [B]
    """max Z_k - Z_y over the wrong classes k."""
    return ATTACKED["margin"].rise(logits, labels, labels)


def _against_label(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
) -> Tensor:  # [B]
    """-logit(F_y): every decreasing function of F_y rises with it."""
    return ATTACKED["log_odds"].rise(logits, labels, labels)


def _probability_margin(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
) -> Tensor:  # [B]
    """max F_k - F_y over the wrong classes k."""
    return _margin(torch.softmax(logits, 1), labels)


def _log_odds(p: float) -> float:
    """logit(p)."""
    return math.log(p) - math.log1p(-p)


LOSSES: dict[LossName, TrainingLoss] = {
    "cross_entropy": TrainingLoss(  # -log F_y
        value=lambda z, y: F.cross_entropy(z, y, reduction="none"),
        rise=_against_label,
        least=lambda p: -math.log1p(-p),
    ),
    "squared": TrainingLoss(  # (1 - F_y)^2
        value=lambda z, y: torch.sigmoid(_against_label(z, y)).square(),
        rise=_against_label,
        least=lambda p: p * p,
    ),
    "cw_f2": TrainingLoss(  # (max F_k - F_y)^+
        value=lambda z, y: _probability_margin(z, y).clamp_min(0.0),
        rise=_probability_margin,
        least=lambda p: 2.0 * p - 1.0,
    ),
    "cw_f3": TrainingLoss(  # log(1 + exp(max F_k - F_y))
        value=lambda z, y: F.softplus(_probability_margin(z, y)),
        rise=_probability_margin,
        least=lambda p: math.log1p(math.exp(2.0 * p - 1.0)),
    ),
    "cw_f4": TrainingLoss(  # (1/2 - F_y)^+
        value=lambda z, y: (torch.sigmoid(_against_label(z, y)) - 0.5).clamp_min(0.0),
        rise=_against_label,
        least=lambda p: p - 0.5,
    ),
    "cw_f6": TrainingLoss(  # (max Z_k - Z_y)^+
        value=lambda z, y: _margin(z, y).clamp_min(0.0),
        rise=_margin,
        least=_log_odds,
    ),
    "cw_f7": TrainingLoss(  # log(1 + exp(max Z_k - Z_y))
        value=lambda z, y: F.softplus(_margin(z, y)),
        rise=_margin,
        least=lambda p: -math.log1p(-p),
    ),
}


def entropy(
    logits: Tensor,  # [B, C]
) -> Tensor:  # [B]
    """Shannon entropy of the predictions, in nats."""
    log_share = torch.log_softmax(logits, 1)  # [B, C]
    return -(log_share.exp() * log_share).sum(1)


def divergence(
    log_share: Tensor,  # [B, C] log F at the reference
    logits: Tensor,  # [B, C] where it is compared
) -> Tensor:  # [B]
    """KL(F || softmax(logits)), differentiable in both."""
    gap = log_share - torch.log_softmax(logits, 1)  # [B, C]
    return (log_share.exp() * gap).sum(1)


def soft_cross_entropy(
    logits: Tensor,  # [B, C]
    targets: Tensor,  # [B, C] distributions
) -> Tensor:  # [B]
    """- sum_k targets_k log F_k; no less than the entropy of the target."""
    return -(targets * torch.log_softmax(logits, 1)).sum(1)
