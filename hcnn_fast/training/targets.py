"""Target distributions that are less sure than one-hot labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hcnn_fast.training.settings import Calibration, Smoothing


def smoothed_targets(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
    amount: float,
    smoothing: Smoothing,
) -> Tensor:  # [B, C] without a graph
    """(1 - a) of the label and a of other classes.

    a over all classes is a (C - 1) / C over the others: with "all" the label keeps 1 - a + a / C,
    with every other choice 1 - a.

    Args:
        logits: the model's, by which "adversarial", "boltzmann" and "second_best" choose.
        labels: classes.
        amount: a in [0, 1).
        smoothing: which classes get it.

    Source: Goibert and Dohmatob 2019.
    """
    logits = logits.detach()
    label = F.one_hot(labels, logits.shape[1]).to(logits.dtype)  # [B, C]
    wrong = label == 0
    match smoothing.over:
        case "all":
            spread = torch.full_like(label, 1.0 / label.shape[1])
        case "others":
            spread = wrong.to(label.dtype) / (label.shape[1] - 1)
        case "boltzmann":
            energy = (-logits / smoothing.temperature).masked_fill(~wrong, -torch.inf)
            spread = torch.softmax(energy, 1)
        case "adversarial":
            worst = logits.masked_fill(~wrong, torch.inf).argmin(1)  # [B]
            spread = F.one_hot(worst, label.shape[1]).to(label.dtype)
        case "second_best":
            best = logits.masked_fill(~wrong, -torch.inf).argmax(1)  # [B]
            spread = F.one_hot(best, label.shape[1]).to(label.dtype)
    return (1.0 - amount) * label + amount * spread


def label_share(
    distance: Tensor,  # [B] l_inf distance from the image, in input units
    radius: float,
    calibration: Calibration,
) -> Tensor:  # [B] in [0, 1]
    """lambda, how much of the target the label keeps at a distance (Stutz et al. 2020, eq. 5)."""
    if calibration.transition == "power":
        return (1.0 - (distance / radius).clamp_max(1.0)) ** calibration.rho
    return torch.exp(-calibration.rho * distance)


def calibrated_targets(
    labels: Tensor,  # [B]
    classes: int,
    share: Tensor,  # [B] in [0, 1]
) -> Tensor:  # [B, C]
    """lambda of the label and 1 - lambda of the uniform distribution (Stutz et al. 2020, eq. 4)."""
    label = F.one_hot(labels, classes).to(share.dtype)  # [B, C]
    return share[:, None] * label + (1.0 - share[:, None]) / classes
