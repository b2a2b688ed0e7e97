"""Training on the images as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hcnn_fast.training.objective import StepLoss, count_right, logits_of


@dataclass(frozen=True, kw_only=True)
class Natural:
    """Cross-entropy of the images.

    Attributes:
        label_smoothing: share of the target spread evenly over all classes.
        bfloat16: run the model in bfloat16.
    """

    label_smoothing: float = 0.0
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
        """The mean cross-entropy of a batch."""
        logits = logits_of(model, images, self.bfloat16)  # [B, C]
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return StepLoss(loss, count_right(logits, labels))
