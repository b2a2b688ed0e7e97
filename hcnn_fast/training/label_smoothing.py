"""Training on the images as they are, towards targets that are less sure than their labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hcnn_fast.training.losses import soft_cross_entropy
from hcnn_fast.training.objective import StepLoss, count_right, logits_of
from hcnn_fast.training.settings import Smoothing
from hcnn_fast.training.targets import smoothed_targets


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """Cross-entropy of smoothed targets, which are constants of the step.

    Attributes:
        amount: share of the target that the settings spread.
        smoothing: over which classes.
        bfloat16: run the model in bfloat16.

    Source: Goibert and Dohmatob 2019.
    """

    amount: float
    smoothing: Smoothing
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
        """The mean loss of a batch."""
        logits = logits_of(model, images, self.bfloat16)  # [B, C]
        targets = smoothed_targets(logits, labels, self.amount, self.smoothing)  # [B, C]
        return StepLoss(soft_cross_entropy(logits, targets).mean(), count_right(logits, labels))
