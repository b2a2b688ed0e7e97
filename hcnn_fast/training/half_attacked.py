"""Batches of which half is attacked: AT-50%, and confidence-calibrated training (CCAT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.attacks.norm_balls import size_of
from hcnn_fast.attacks.pgd_conf import ConfObjective, pgd_conf
from hcnn_fast.training.losses import soft_cross_entropy
from hcnn_fast.training.objective import StepLoss, count_right, evaluation_mode, logits_of
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.settings import Calibration, HalfAttacked
from hcnn_fast.training.targets import calibrated_targets, label_share


@dataclass(frozen=True, kw_only=True)
class HalfBatchAttacked:
    """Cross-entropy of the first half of a batch as it is and of the rest where it was attacked.

    While it is attacked the model is in eval mode; then one pass takes both halves together, so
    that layers in train mode share their statistics. Of an odd number the larger part is clean.

    With `HalfAttacked` the attack raises the cross-entropy and targets are the labels (AT-50%).
    With `Calibration` it raises the largest confidence in a wrong class, and the targets of
    attacked points become uniform with their distance; the radius that this is measured by does
    not warm up.

    Attributes:
        recipe: radius, steps and step size of the attack.
        settings: the attack, and for CCAT the targets.
        bfloat16: run the model in bfloat16.

    Source: Stutz, Hein and Schiele 2020, algorithm 1.
    """

    recipe: Recipe
    settings: HalfAttacked
    bfloat16: bool = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,  # [B, *image]
        labels: Tensor,  # [B]
        *,
        epoch: float,
        seed: int,
    ) -> StepLoss:
        """The mean loss of a batch.

        Raises:
            RuntimeError: the model's logits are no longer finite.
        """
        clean = len(images) - len(images) // 2
        centre, label = images[clean:], labels[clean:]  # [b, *image], [b]
        attacked = self._attacked(model, centre, label, epoch, seed)  # [b, *image]
        logits = logits_of(model, torch.cat([images[:clean], attacked]), self.bfloat16)  # [B, C]
        share = torch.ones_like(logits[:, 0])  # [B]
        if isinstance(self.settings, Calibration):
            distance = size_of(attacked - centre, "linf").to(share.dtype)  # [b]
            share[clean:] = label_share(distance, self.recipe.radius, self.settings)
        targets = calibrated_targets(labels, logits.shape[1], share)  # [B, C]
        return StepLoss(soft_cross_entropy(logits, targets).mean(), count_right(logits, labels))

    def _attacked(
        self,
        model: nn.Module,
        images: Tensor,  # [b, *image]
        labels: Tensor,  # [b]
        epoch: float,
        seed: int,
    ) -> Tensor:  # [b, *image]
        """The points of PGD-Conf."""
        radius = self.recipe.radius_at(epoch)
        if radius == 0.0 or not len(images):
            return images
        steps = self.recipe.attack_steps_at(int(epoch))
        objective: ConfObjective = "cross_entropy"
        if isinstance(self.settings, Calibration):
            objective = "confidence"
        with evaluation_mode(model):
            try:
                return pgd_conf(
                    # A module would be copied and prepared for long use, in every step anew.
                    lambda z: model(z),
                    images,
                    labels,
                    radius=radius,
                    objective=objective,
                    steps=steps,
                    step_size=self.recipe.attack_step_size_at(epoch, steps),
                    momentum=self.settings.momentum,
                    backtracking=self.settings.backtracking,
                    initialisations=self.settings.initialisations,
                    draw="batch",
                    seed=seed,
                    precision="bfloat16" if self.bfloat16 else "float32",
                    batch_size=len(images),
                ).point
            except ValueError as error:  # all else was checked before
                raise RuntimeError(
                    f"epoch {int(epoch) + 1}: {error}; train with a smaller learning_rate"
                ) from error
