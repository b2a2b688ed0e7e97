"""The inner maximisation of adversarial training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hcnn_fast import ops
from hcnn_fast.engine.model import native_bfloat16


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
    bounds: tuple[float, float] = (0.0, 1.0),
    bfloat16: bool = False,
    backend: str = "auto",
) -> Tensor:  # [B, *image]
    """Points of high cross-entropy in the l_inf balls: PGD from one random start per image.

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
        bounds: smallest and largest value of the input.
        bfloat16: run the model in bfloat16.
        backend: implementation of the fused operations.

    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    if radius == 0.0 or not len(images):
        return images
    count = len(images)
    index = torch.arange(count, device=images.device)  # [B]
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
    size = torch.full((count,), step_size, dtype=images.dtype, device=images.device)  # [B]
    value = torch.empty(count, device=images.device)  # [B]
    for _ in range(steps):
        leaf = point.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(images.device.type, torch.bfloat16, bfloat16):
            logits = model(leaf).float()  # [B, C]
        slope = torch.empty_like(logits)  # [B, C]
        ops.label_objective(
            logits.detach(), labels, "cross_entropy", value=value, gradient=slope, backend=backend
        )
        (gradient,) = torch.autograd.grad(logits, leaf, slope)  # [B, *image]
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
