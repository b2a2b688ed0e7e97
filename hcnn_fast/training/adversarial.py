"""Adversarial training: descend on the loss at the worst point of each image's ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hcnn_fast.training.inner_attack import attacked_images
from hcnn_fast.training.objective import StepLoss, count_right, logits_of
from hcnn_fast.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross-entropy at the points that `attacked_images` finds, the model in the mode it is in.

    Attributes:
        recipe: radius, steps and step size of the attack, and how the target is smoothed.
        bfloat16: run the model in bfloat16.

    Source: Madry et al. 2018, equation 2.1.
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
            bfloat16=self.bfloat16,
        )  # [B, *image]
        logits = logits_of(model, worst, self.bfloat16)  # [B, C]
        smoothing = self.recipe.label_smoothing
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        return StepLoss(loss, count_right(logits, labels))
