"""What attacks make rise: functions of the logits, and how a search climbs them.

Where a paper's objective is an increasing function of the log odds logit(F_k) of a class, the log
odds are climbed in its place: every step and comparison is the same, and the gradient does not
vanish where F_k rounds to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hcnn_fast.engine.slopes import Forward

LossName = Literal[
    "cross_entropy",
    "log_odds",
    "margin",
    "dlr",
    "confidence",
    "logit",
    "distal",
    "target_confidence",
    "target_margin",
    "target_dlr",
]
Rise = Callable[[Tensor, Tensor, Tensor], Tensor]

# Of the denominator of DLR, which is 0 where the largest logits are equal.
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An attack's objective.

    Attributes:
        rise: (logits [B, C], label [B], target [B]) -> [B], differentiable: what is climbed.
        value: an increasing function of it, the objective as its paper states it.
        classes: fewest classes for which it is defined.
        odds: where `rise` is log odds, or their negative: of which class, and the sign. The
            engine's fused operation then gives height and slope.
    """

    rise: Rise
    value: Callable[[Tensor], Tensor] = lambda rise: rise
    classes: int = 2
    odds: tuple[Rise, float] | None = None


def _of(
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
) -> Tensor:  # [B]
    return logits.gather(1, label[:, None])[:, 0]


def _others(
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
) -> Tensor:  # [B, C] the logits with minus infinity at the label
    return logits.scatter(1, label[:, None], -torch.inf)


def log_odds(
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
) -> Tensor:  # [B]
    """logit(F_l) = Z_l - log sum_k e^Z_k over the other classes k."""
    return _of(logits, label) - torch.logsumexp(_others(logits, label), 1)


def _margin(logits: Tensor, label: Tensor, _: Tensor) -> Tensor:  # [B]
    return _others(logits, label).max(1).values - _of(logits, label)


def _dlr(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:  # [B]
    """Difference of logits ratio: the margin over Z_(1) - Z_(3) (Croce and Hein 2020, eq. 6)."""
    top = logits.topk(3).values  # [B, 3]
    return _margin(logits, label, target) / (top[:, 0] - top[:, 2] + _TINY)


def _target_margin(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:  # [B]
    return _of(logits, target) - _of(logits, label)


def _target_dlr(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:  # [B]
    """Z_t - Z_y over Z_(1) - (Z_(3) + Z_(4)) / 2 (Croce and Hein 2020, eq. 7)."""
    top = logits.topk(4).values  # [B, 4]
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return _target_margin(logits, label, target) / (scale + _TINY)


def _odds_of(
    choose: Rise,  # logits, label and target to classes [B]
    sign: float = 1.0,
    value: Callable[[Tensor], Tensor] = lambda rise: rise,
) -> Loss:
    """The log odds of a class that may depend on the logits, or their negative."""
    return Loss(
        rise=lambda z, y, t: sign * log_odds(z, choose(z, y, t)), value=value, odds=(choose, sign)
    )


LOSSES: dict[LossName, Loss] = {
    "cross_entropy": _odds_of(lambda z, y, t: y, -1.0, F.softplus),  # -log F_y
    "log_odds": _odds_of(lambda z, y, t: y, -1.0),
    "margin": Loss(rise=_margin),
    "dlr": Loss(rise=_dlr, classes=3),
    # the largest probability of a wrong class
    "confidence": _odds_of(lambda z, y, t: _others(z, y).argmax(1), 1.0, torch.sigmoid),
    "logit": Loss(rise=lambda z, y, t: _others(z, y).max(1).values),
    "distal": _odds_of(lambda z, y, t: z.argmax(1), 1.0, F.logsigmoid),
    "target_confidence": _odds_of(lambda z, y, t: t, 1.0, torch.sigmoid),
    "target_margin": Loss(rise=_target_margin),
    "target_dlr": Loss(rise=_target_dlr, classes=4),
}


def rise_of(
    loss: Loss,
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
    target: Tensor,  # [B]
) -> Tensor:  # [B] float32, or float64 for such logits
    """What is climbed, of logits in any precision."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return loss.rise(wide, label, target)


def as_margin(
    forward: Forward,
    loss: Loss,
    label: Tensor,  # [B]
    target: Tensor,  # [B]
) -> Forward:
    """A model of the two classes (rise, 0): the margin of its class 0 is what is climbed.

    So the engine climbs, with its objective "margin", what is no objective of its own.
    """

    def logits(point: Tensor) -> Tensor:  # [B, *image] -> [B, 2]
        rise = rise_of(loss, forward(point), label, target)
        return torch.stack([rise, torch.zeros_like(rise)], 1)

    return logits
