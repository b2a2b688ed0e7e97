"""What a training run reports: each epoch, and what is kept at the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EpochReport:
    """What an epoch of training came to.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean training loss, as the recipe's method defines it.
        accuracy: share of the points trained on, attacked or not, classified right meanwhile.
        validation_clean: accuracy on the held-out images; NaN when none are held out.
        validation_robust: accuracy on them under attack (the clean one for natural training).
        seconds: time of training alone.
        best: whether these weights are the best so far.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_clean: float
    validation_robust: float
    seconds: float
    best: bool


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        weights: the kept state of the model, averaged if the recipe says so, on the CPU.
        best_epoch: epoch it is from, from 1.
        history: one report per epoch.
        train_images: images trained on.
        seconds: time of training, validation excluded, over all resumed parts.
    """

    weights: dict[str, Tensor]
    best_epoch: int
    history: tuple[EpochReport, ...]
    train_images: int
    seconds: float
