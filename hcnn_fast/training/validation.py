"""Accuracy on held-out images, by which the epoch that is kept is chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hcnn_fast.training.inner_attack import attacked_images
from hcnn_fast.training.objective import evaluation_mode
from hcnn_fast.training.recipe import Recipe

BATCH = 256  # images at a time


def validate(
    model: nn.Module,
    images: Tensor,  # [V, C, H, W] uint8
    labels: Tensor,  # [V]
    recipe: Recipe,
) -> tuple[float, float]:
    """Share of the images that the model gets right, as they are and under PGD.

    Args:
        model: measured in eval mode, left in its own.
        images: held-out images; without any both shares are NaN.
        labels: their classes.
        recipe: radius, steps and seed of the attack; at radius 0 both shares are the same.
    """
    if not len(images):
        return float("nan"), float("nan")
    clean = robust = 0
    with evaluation_mode(model):
        for i in range(0, len(images), BATCH):
            x = images[i : i + BATCH].to(torch.float32) / 255.0  # [B, C, H, W]
            y = labels[i : i + BATCH]  # [B]
            worst = attacked_images(
                model,
                x,
                y,
                radius=recipe.radius,
                steps=recipe.validation_steps,
                step_size=2.5 * recipe.radius / recipe.validation_steps,
                seed=recipe.seed,
            )  # [B, C, H, W]
            with torch.no_grad():
                clean += int((model(x).argmax(1) == y).sum())
                robust += int((model(worst).argmax(1) == y).sum())
    return clean / len(images), robust / len(images)
