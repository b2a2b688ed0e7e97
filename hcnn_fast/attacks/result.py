"""What an attack returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """The strongest point that an attack found for each of N images.

    Attributes:
        point: [N, *image].
        value: [N] float32, the attack's objective there.
        success: [N] bool, whether the model's prediction there is not y.
        confidence: [N] float32, the largest probability there.
        attempt: [N] int64, the restart that found it.
        gradient_steps: gradient steps spent on all images.
        queries: images that the model, or a value function in its place, was asked about; 0 where
            an attack does not count them.
    """

    point: Tensor
    value: Tensor
    success: Tensor
    confidence: Tensor
    attempt: Tensor
    gradient_steps: int
    queries: int = 0
