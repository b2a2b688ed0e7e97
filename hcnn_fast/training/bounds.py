"""What a small worst-case loss proves: bounds on wrong confidence (Wu et al. 2018, Prop. 1 and 2).

The bounds stand beside the losses because their constants are properties of these; how often wrong
confidence is found by attacks is `evaluation.estimate_separation`.
"""

from __future__ import annotations

import math
from typing import get_args

from hcnn_fast.training.fields import choice, number
from hcnn_fast.training.losses import LOSSES, LossName


def least_loss(loss: LossName, confidence: float) -> float:
    """tau(1 - p): the loss that a point has at least where a wrong class has confidence p.

    Below 0 where the loss says nothing about such a confidence.

    Args:
        loss: a loss of `losses`.
        confidence: p in (0, 1).

    Raises:
        TypeError, ValueError: no such loss, or p outside (0, 1).
    """
    choice("loss", loss, get_args(LossName))
    number("confidence", confidence, 0.0, 1.0, above=True)
    return LOSSES[loss].least(confidence)


def wrong_confidence_bound(loss: LossName, worst_loss: float, confidence: float) -> float:
    """Bound on Pr[B], that some point of the ball has a wrong class of confidence p.

    By Markov's inequality Pr[B] <= rho / tau(1 - p). It holds for any set of perturbations and any
    distribution, an empirical one too, as long as rho is the mean of the true maxima: an attack
    finds less than these, so its mean loss proves nothing.

    Args:
        loss: a loss of `losses`.
        worst_loss: rho >= 0, mean over the points of the largest loss in their balls.
        confidence: p in (0, 1).

    Returns:
        The bound, at most 1; 1 where p is too small for this loss to say anything.

    Raises:
        TypeError, ValueError: an argument out of range.

    Source: Wu et al. 2018, proposition 1 and corollary 1.
    """
    number("worst_loss", worst_loss, 0.0, math.inf)
    least = least_loss(loss, confidence)
    return min(1.0, worst_loss / least) if least > 0.0 else 1.0


def error_bound(loss: LossName, worst_loss: float) -> float:
    """Bound on Pr[some point of the ball is misclassified], rho / tau(1/2).

    1 for cw_f2, cw_f4 and cw_f6, which are 0 at the decision boundary.

    Args:
        loss: a loss of `losses`.
        worst_loss: rho as in `wrong_confidence_bound`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Source: Wu et al. 2018, proposition 2.
    """
    return wrong_confidence_bound(loss, worst_loss, 0.5)
