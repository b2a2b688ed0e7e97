"""Accuracy on held-out images, by which the epoch that is kept is chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hcnn_fast.attacks.pgd_conf import pgd_conf
from hcnn_fast.evaluation.rejection import calibrated_threshold
from hcnn_fast.training.inner_attack import attacked_images
from hcnn_fast.training.objective import evaluation_mode
from hcnn_fast.training.recipe import Recipe

BATCH = 256  # images at a time
TPR = 0.99  # of the right answers to clean images that stay accepted, as CCAT is measured


def validate(
    model: nn.Module,
    images: Tensor,  # [V, C, H, W] uint8
    labels: Tensor,  # [V]
    recipe: Recipe,
) -> tuple[float, float]:
    """Share of the images that the model gets right, as they are and under attack.

    The attack is PGD on the cross-entropy. A model of "ccat" is unsure where it is attacked, not
    right: PGD-Conf attacks it, and an image stands if its right answer is accepted and no wrong one
    is, at the threshold of confidence that keeps 99% of the right answers to clean images.

    Args:
        model: measured in eval mode, left in its own.
        images: held-out images; without any both shares are NaN.
        labels: their classes.
        recipe: method, radius, steps and seed; at radius 0 both shares are the same.

    Raises:
        RuntimeError: a model of "ccat" has logits that are not finite.
    """
    if not len(images):
        return float("nan"), float("nan")
    before: list[Tensor] = []  # [B, C] each, logits at the images
    after: list[Tensor] = []  # and at the attacked points
    with evaluation_mode(model):
        for i in range(0, len(images), BATCH):
            x = images[i : i + BATCH].to(torch.float32) / 255.0  # [B, C, H, W]
            worst = _attacked(model, x, labels[i : i + BATCH], recipe)  # [B, C, H, W]
            with torch.no_grad():
                before.append(model(x))
                after.append(model(worst))
    clean, attacked = torch.cat(before).float(), torch.cat(after).float()  # [V, C] both
    right = clean.argmax(1) == labels  # [V]
    stands = attacked.argmax(1) == labels  # [V]
    if recipe.method == "ccat":
        sure = torch.softmax(clean, 1).amax(1)  # [V]
        threshold = calibrated_threshold(sure, right, TPR) if bool(right.any()) else 0.0
        stands |= torch.softmax(attacked, 1).amax(1) < threshold
        stands &= right & (sure >= threshold)
    return int(right.sum()) / len(images), int(stands.sum()) / len(images)


def _attacked(
    model: nn.Module,
    x: Tensor,  # [B, C, H, W]
    y: Tensor,  # [B]
    recipe: Recipe,
) -> Tensor:  # [B, C, H, W]
    """Points of high loss, or for "ccat" of high confidence in a wrong class."""
    steps = recipe.validation_steps
    if recipe.method != "ccat":
        return attacked_images(
            model,
            x,
            y,
            radius=recipe.radius,
            steps=steps,
            step_size=2.5 * recipe.radius / steps,
            seed=recipe.seed,
        )
    try:
        attack = pgd_conf(
            lambda z: model(z), x, y, radius=recipe.radius, steps=steps, batch_size=len(x)
        )
    except ValueError as error:
        raise RuntimeError(f"{error}; train with a smaller learning_rate") from error
    return attack.point
