"""The worst of several attacks, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.attacks.result import AttackResult


@dataclass(frozen=True)
class WorstCase:
    """The union of attacks on the same N images.

    Attributes:
        point: [N, *image], the most confident error that any attack found, or where none did the
            first attack's point.
        success: [N] bool, whether any attack succeeded.
        confidence: [N] float32, the largest probability at `point`.
        attack: [N] int64, which attack's point it is.
        largest_confidence: [N] float32, the largest probability at any attack's point, errors or
            not.
        gradient_steps: gradient steps spent by all attacks.
    """

    point: Tensor
    success: Tensor
    confidence: Tensor
    attack: Tensor
    largest_confidence: Tensor
    gradient_steps: int

    def errs_at(self, threshold: float) -> Tensor:  # [N] bool
        """Whether any attack found an error of confidence >= threshold, tau."""
        return self.success & (self.confidence >= threshold)

    def accepts_at(self, threshold: float) -> Tensor:  # [N] bool
        """Whether any attack's point has confidence >= threshold, an error or not."""
        return self.largest_confidence >= threshold


def worst_case(results: Sequence[AttackResult]) -> WorstCase:
    """Join attacks on the same images example by example: an OR over attempts at every threshold.

    CCAT keeps the attempt with the largest probability of a wrong class. That can hide an error: at
    a threshold of 0.35 a wrong 0.45 below a right 0.50 displaces a wrong 0.40 that is an error
    (spec B.6). The most confident error is one at every threshold where any attempt is.

    Args:
        results: one or more, of as many images each; of attacks, or of restarts one by one.

    Raises:
        TypeError: something that is no AttackResult.
        ValueError: no results, or of unlike images.
    """
    for position, result in enumerate(results):
        if not isinstance(result, AttackResult):
            raise TypeError(
                f"results[{position}] is a {type(result).__name__}, expected an AttackResult"
            )
        if result.point.shape != results[0].point.shape:
            raise ValueError(
                f"results[{position}] has points {tuple(result.point.shape)}, expected "
                f"{tuple(results[0].point.shape)} as results[0]"
            )
    if not results:
        raise ValueError("results is empty, expected one AttackResult or more")
    success = torch.stack([result.success for result in results])  # [A, N]
    confidence = torch.stack([result.confidence for result in results])  # [A, N]
    attack = torch.where(success, confidence, -1.0).argmax(0)  # [N] the first of equals
    images = torch.arange(len(attack), device=attack.device)
    return WorstCase(
        point=torch.stack([result.point for result in results])[attack, images],
        success=success.any(0),
        confidence=confidence[attack, images],
        attack=attack,
        largest_confidence=confidence.amax(0),
        gradient_steps=sum(result.gradient_steps for result in results),
    )
