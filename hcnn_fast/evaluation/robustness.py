"""Robust test error with and without the right to reject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hcnn_fast.evaluation.intervals import Proportion, plain_values
from hcnn_fast.evaluation.outcomes import Outcomes


@dataclass(frozen=True)
class RobustError:
    """Errors over all N examples at one threshold; the clean image is one of the attempts.

    Attributes:
        threshold: confidences below it are rejected.
        clean: the clean image gets a wrong answer, accepted or not.
        without_rejection: some attempt gets a wrong answer, accepted or not.
        with_rejection: some attempt gets a wrong answer that is accepted.
        clean_rejected: the clean image is rejected.
        with_rejection_of_clean: one of the last two. Rejecting everything makes `with_rejection`
            0 and this 1.
    """

    threshold: float
    clean: Proportion
    without_rejection: Proportion
    with_rejection: Proportion
    clean_rejected: Proportion
    with_rejection_of_clean: Proportion

    def to_dict(self) -> dict[str, Any]:
        """The threshold and the proportions as plain values."""
        return plain_values(self)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that would accept where there is no answer, and NaN.

    Raises:
        ValueError: `threshold` is NaN or below 0.
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold is {threshold!r}, expected a number >= 0")


def robust_error(outcomes: Outcomes, threshold: float) -> RobustError:
    """Worst-case errors per example, over N.

    Args:
        outcomes: the worst case over the attempts of one threat model.
        threshold: smallest confidence that is accepted; 0 accepts every answer.

    Raises:
        ValueError: threshold NaN or below 0, or an example that some attack could still break
            (right, or rejected, when clean) has no attempt.
    """
    check_threshold(threshold)
    accepted = outcomes.clean_score >= threshold  # [N]
    clean_wrong = ~outcomes.right & (outcomes.clean_score >= 0.0)  # [N]
    outcomes.check_attacked(~(clean_wrong & accepted))
    failed = ~outcomes.survivors(threshold)  # [N]

    def share(event: Any) -> Proportion:
        return Proportion(int(event.sum()), len(outcomes))

    return RobustError(
        threshold=threshold,
        clean=share(clean_wrong),
        without_rejection=share(~outcomes.survivors()),
        with_rejection=share(failed),
        clean_rejected=share(~accepted),
        with_rejection_of_clean=share(failed | ~accepted),
    )
