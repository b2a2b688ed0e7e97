"""What a method of training minimises in a step: the contract, and the passes that all share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StepLoss:
    """What a step came to.

    Attributes:
        loss: [] mean loss of the batch, with its graph.
        right: [] int64, how many of the points trained on were classified right.
    """

    loss: Tensor
    right: Tensor


class Objective(Protocol):
    """A method of training: the loss of a batch, every random choice a function of the seed."""

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,  # [B, *image] in [0, 1]
        labels: Tensor,  # [B] int64
        *,
        epoch: float,
        seed: int,
    ) -> StepLoss:
        """The loss of a step.

        Args:
            model: gives logits [B, C], in train mode; left in the mode that it is in.
            images: augmented images.
            labels: their classes.
            epoch: epochs done, fractions included.
            seed: another number for each step.
        """
        ...


def logits_of(
    model: nn.Module,
    images: Tensor,  # [B, *image]
    bfloat16: bool,
) -> Tensor:  # [B, C] float32, or float64 for such a model
    """The model's logits, computed in bfloat16 if so asked, for losses in full precision."""
    with torch.autocast(images.device.type, torch.bfloat16, bfloat16):
        logits: Tensor = model(images)
    return logits if logits.dtype == torch.float64 else logits.float()


def count_right(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
) -> Tensor:  # [] int64
    """How many predictions are the labels, left on the device."""
    return (logits.detach().argmax(1) == labels).sum()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, every module back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
