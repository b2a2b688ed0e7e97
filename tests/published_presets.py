"""The presets as their papers state them, image by image, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Bounds = tuple[float, float]


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


def anti_adversary(model: nn.Module, x: Tensor, size: float, steps: int) -> Tensor:  # [N, *image]
    """Alfarra et al.: down the cross entropy of the first prediction, without ball or bounds."""
    label, point = model(x).argmax(1), x.clone()
    for _ in range(steps):
        point.requires_grad_()
        slope = gradient(F.cross_entropy(model(point), label), point)
        point = (point - size * slope.sign()).detach()
    return point


def hedge(
    model: nn.Module,
    x: Tensor,
    start: Tensor,  # [N, *image]
    radius: float,
    size: float,
    steps: int,
    bounds: Bounds,
) -> Tensor:  # [N, *image]
    """Wu et al.: up the cross entropies of all classes, one after the other, in ball and bounds."""
    delta = start - x
    for _ in range(steps):
        delta.requires_grad_()
        logits = model(x + delta)
        classes = [torch.full((len(x),), k) for k in range(logits.shape[1])]
        loss = sum(F.cross_entropy(logits, k, reduction="sum") for k in classes)
        delta = (delta + size * gradient(loss, delta).sign()).detach().clamp(-radius, radius)
        delta = (x + delta).clamp(*bounds) - x
    return x + delta


def pnml(
    model: nn.Module, x: Tensor, radius: float, bounds: Bounds
) -> tuple[Tensor, Tensor]:  # [N, C, *image], [N, C]
    """Pesso et al.: an FGSM step towards every label, and what it reaches there, not normalised."""
    classes = model(x).shape[1]
    points, reached = [], []
    for k in range(classes):
        leaf, label = x.clone().requires_grad_(), torch.full((len(x),), k)
        slope = gradient(F.cross_entropy(model(leaf), label, reduction="sum"), leaf)
        points.append((x - radius * slope.sign()).clamp(*bounds))
        reached.append(torch.softmax(model(points[-1]), 1)[:, k].detach())
    return torch.stack(points, 1), torch.stack(reached, 1)


def cpr(
    model: nn.Module, x: Tensor, radius: float, size: float, steps: int, bounds: Bounds
) -> Tensor:  # [N, *image]
    """Chen et al.: up the cross entropy of the prediction; the point of the largest one counts."""
    found = []
    for image in x:
        label = model(image[None]).argmax(1)
        delta, best, worst = torch.zeros_like(image[None]), image[None], -torch.inf
        for step in range(steps + 1):
            delta.requires_grad_()
            loss = F.cross_entropy(model(image + delta), label)
            if loss.item() > worst:
                best, worst = (image + delta).detach(), loss.item()
            if step < steps:
                moved = (delta + size * gradient(loss, delta).sign()).detach()
                delta = (image + moved.clamp(-radius, radius)).clamp(*bounds) - image
        found.append(best)
    return torch.cat(found)
