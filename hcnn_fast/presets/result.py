"""What a preset answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PresetResult:
    """The answers of a preset for N images and C classes.

    Attributes:
        point: [N, *image], the point that was found in each image's ball.
        logits: [N, C], the model there.
        probability: [N, C] float32, the distribution over classes that the preset answers with;
            its logarithm serves as logits for attacks that ask for no gradient.
        prediction: [N] int64, the class that the preset answers.
        confidence: [N] float32, its probability.
        accepted: [N] bool, false where the preset rejects the image.
        forwards, backwards: passes of single images through the model, in all, without the few
            that plan the run.
    """

    point: Tensor
    logits: Tensor
    probability: Tensor
    prediction: Tensor
    confidence: Tensor
    accepted: Tensor
    forwards: int
    backwards: int
