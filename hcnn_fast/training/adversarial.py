"""Adversarial training: descend on the loss at the worst point of each image's ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hcnn_fast.training.inner_attack import Rise, attacked_images
from hcnn_fast.training.losses import LOSSES, entropy
from hcnn_fast.training.objective import StepLoss, count_right, logits_of
from hcnn_fast.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """The recipe's loss where `attacked_images` finds it high, the model in the mode it is in.

    The attack climbs the cross-entropy or, for the other losses, an increasing function of theirs
    that is nowhere flat; with an entropy weight it climbs the sum.

    Attributes:
        recipe: loss, radius, steps and step size of the attack, and how the target is smoothed.
        bfloat16: run the model in bfloat16.

    Source: Madry et al. 2018, equation 2.1; Wu et al. 2018, section 3.
    """

    recipe: Recipe
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
        """The mean loss at the attacked points of a batch."""
        steps = self.recipe.attack_steps_at(int(epoch))
        worst = attacked_images(
            model,
            images,
            labels,
            radius=self.recipe.radius_at(epoch),
            steps=steps,
            step_size=self.recipe.attack_step_size_at(epoch, steps),
            seed=seed,
            rise=self._rise(labels),
            bfloat16=self.bfloat16,
        )  # [B, *image]
        logits = logits_of(model, worst, self.bfloat16)  # [B, C]
        loss = self._losses(logits, labels).mean()
        return StepLoss(loss, count_right(logits, labels))

    def _losses(
        self,
        logits: Tensor,  # [B, C]
        labels: Tensor,  # [B]
    ) -> Tensor:  # [B], or [] their mean
        """What is minimised."""
        recipe = self.recipe
        if recipe.loss == "cross_entropy":
            loss = nn.functional.cross_entropy(
                logits, labels, label_smoothing=recipe.label_smoothing
            )  # []
        else:
            loss = LOSSES[recipe.loss].value(logits, labels)  # [B]
        if recipe.entropy_weight:
            loss = loss + recipe.entropy_weight * entropy(logits)  # [B]
        return loss

    def _rise(
        self,
        labels: Tensor,  # [B]
    ) -> Rise | None:
        """What the attack climbs; None: the cross-entropy."""
        loss, weight = LOSSES[self.recipe.loss], self.recipe.entropy_weight
        if weight:
            return lambda logits: loss.value(logits, labels) + weight * entropy(logits)
        if self.recipe.loss == "cross_entropy":
            return None
        return lambda logits: loss.rise(logits, labels)
