"""The inner maximisation of adversarial training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hcnn_fast import ops
from hcnn_fast.engine.model import native_bfloat16
from hcnn_fast.training.objective import logits_of

Rise = Callable[[Tensor], Tensor]  # logits [B, C] to what is climbed [B]


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a model trained with `precision` on a device runs in bfloat16."""
    return native_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def attacked_images(
    model: nn.Module,
    images: Tensor,  # [B, *image] in bounds
    labels: Tensor,  # [B] int64
    *,
    radius: float,
    steps: int,
    step_size: float,
    seed: int,
    rise: Rise | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    bfloat16: bool = False,
    backend: str = "auto",
) -> Tensor:  # [B, *image]
    """Points of high loss in the l_inf balls: PGD from one random start per image.

    The model is used in the mode it is in. In training this is the train mode, as in the code of
    Madry et al.: batch normalisation takes the statistics of the attacked batch, and its running
    averages see every forward pass of the attack.

    Args:
        model: gives logits [B, C].
        images: [B, *image] centres of the balls.
        labels: [B] classes whose loss is raised.
        radius: l_inf radius in input units; 0 returns the images.
        steps: gradient steps.
        step_size: length of a step in input units.
        seed: seed of the random start; pass another one for each step of training.
        rise: what rises, a differentiable function of the logits; None: the cross-entropy, whose
            value and gradient are one fused operation.
        bounds: smallest and largest value of the input.
        bfloat16: run the model in bfloat16.
        backend: implementation of the fused operations.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    if radius == 0.0 or not len(images):
        return images
    index = torch.arange(len(images), device=images.device)  # [B]
    point = ops.random_starts(
        images,
        ops.content_hash(images, backend=backend),
        index,
        labels,
        torch.ones_like(index),
        seed=seed,
        radius=radius,
        bounds=bounds,
        backend=backend,
    )  # [B, *image]

    def fused(logits: Tensor) -> Tensor:  # [B, C] -> [B, C]
        value = torch.empty(len(logits), dtype=logits.dtype, device=logits.device)  # [B]
        gradient = torch.empty_like(logits)
        ops.label_objective(
            logits, labels, "cross_entropy", value=value, gradient=gradient, backend=backend
        )
        return gradient

    return ascend_(
        model,
        point,
        images,
        fused if rise is None else slope_of(rise),
        radius=radius,
        steps=steps,
        step_size=step_size,
        bounds=bounds,
        bfloat16=bfloat16,
        backend=backend,
    )


def slope_of(rise: Rise) -> Rise:
    """The gradient [B, C] in the logits of a function of them."""

    def slope(logits: Tensor) -> Tensor:  # [B, C] -> [B, C]
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(rise(leaf).sum(), leaf)
        return gradient

    return slope


def ascend_(
    model: nn.Module,
    point: Tensor,  # [B, *image] first points, moved in place
    images: Tensor,  # [B, *image] in bounds
    slope: Rise,
    *,
    radius: float,
    steps: int,
    step_size: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    bfloat16: bool = False,
    backend: str = "auto",
) -> Tensor:  # [B, *image] `point`
    """Sign steps uphill, each projected onto the l_inf balls and the bounds.

    Args:
        model: gives logits [B, C]; used in the mode it is in.
        point: where the steps begin.
        images: centres of the balls.
        slope: gradient [B, C] of what rises in the logits, of detached logits.
        radius: l_inf radius in input units.
        steps: gradient steps.
        step_size: length of a step in input units.
        bounds: smallest and largest value of the input.
        bfloat16: run the model in bfloat16.
        backend: implementation of the fused operations.
    """
    count = len(images)
    index = torch.arange(count, device=images.device)  # [B]
    size = torch.full((count,), step_size, dtype=images.dtype, device=images.device)  # [B]
    for _ in range(steps):
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            logits = logits_of(model, leaf, bfloat16)  # [B, C]
        (gradient,) = torch.autograd.grad(logits, leaf, slope(logits.detach()))  # [B, *image]
        ops.pgd_step_(
            point,
            gradient.contiguous(),
            images,
            index,
            size,
            radius=radius,
            bounds=bounds,
            backend=backend,
        )
    return point
