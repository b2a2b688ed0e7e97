"""TRADES: right on the images, and the same answer in their balls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.training.inner_attack import ascend_
from hcnn_fast.training.losses import divergence
from hcnn_fast.training.objective import StepLoss, count_right, evaluation_mode, logits_of
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.settings import Trades
from hcnn_fast.training.streams import normal_like


@dataclass(frozen=True, kw_only=True)
class TradesObjective:
    """Cross-entropy of x plus beta times max KL(F(x) || F(x')) over the l_inf ball.

    The maximum is looked for in eval mode, from a Gaussian start; x and x' then pass the model one
    after the other in the mode it is in, and both sides of the divergence are trained.

    Attributes:
        recipe: radius, steps and step size of the attack.
        settings: beta and the start.
        bfloat16: run the model in bfloat16.

    Source: Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy".
    """

    recipe: Recipe
    settings: Trades
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
        """The mean loss of a batch; right is counted at the attacked points."""
        attacked = self._attacked(model, images, epoch, seed)  # [B, *image]
        logits = logits_of(model, images, self.bfloat16)  # [B, C]
        moved = logits_of(model, attacked, self.bfloat16)  # [B, C]
        apart = divergence(torch.log_softmax(logits, 1), moved)  # [B]
        loss = nn.functional.cross_entropy(logits, labels) + self.settings.beta * apart.mean()
        return StepLoss(loss, count_right(moved, labels))

    def _attacked(
        self,
        model: nn.Module,
        images: Tensor,  # [B, *image]
        epoch: float,
        seed: int,
    ) -> Tensor:  # [B, *image]
        """Points where the prediction is far from the image's."""
        steps = self.recipe.attack_steps_at(int(epoch))
        start = images + self.settings.start_deviation * normal_like(images, "trades", seed)
        with evaluation_mode(model):
            with torch.no_grad():
                share = torch.softmax(logits_of(model, images, self.bfloat16), 1)  # [B, C]
            return ascend_(
                model,
                start,
                images,
                lambda logits: torch.softmax(logits, 1) - share,  # of the divergence
                radius=self.recipe.radius_at(epoch),
                steps=steps,
                step_size=self.recipe.attack_step_size_at(epoch, steps),
                bfloat16=self.bfloat16,
            )
