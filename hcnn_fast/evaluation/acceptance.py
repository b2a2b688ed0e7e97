"""Right, rejected or wrong: what becomes of each example under the worst of its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hcnn_fast.evaluation.intervals import Proportion
from hcnn_fast.evaluation.outcomes import any_attempt, worst_case_outcomes
from hcnn_fast.evaluation.robustness import check_threshold
from hcnn_fast.evaluation.table import AttemptTable, Classifier


@dataclass(frozen=True)
class Acceptance:
    """One of three for each of N examples, in ascending order of their ids.

    Attributes:
        right: [N] bool, the clean image and every attempt get the right answer, accepted.
        rejected: [N] bool, none gets a wrong answer that is accepted, and one or more are rejected.
        wrong: [N] bool, one or more get a wrong answer that is accepted.
    """

    right: Tensor
    rejected: Tensor
    wrong: Tensor

    def rate(self, name: str) -> Proportion:
        """One of the three over all N."""
        column: Tensor = getattr(self, name)
        return Proportion(int(column.sum()), len(column))

    def to_dict(self) -> dict[str, Any]:
        """The three proportions as plain values."""
        return {name: self.rate(name).to_dict() for name in vars(self)}


def acceptance(table: AttemptTable, classifier: Classifier, threshold: float = 0.0) -> Acceptance:
    """Part the examples of a table in three.

    Args:
        table: attempts of one threat model, and one clean row per example.
        classifier: "base" or "defended", whose answers count.
        threshold: smallest confidence that is accepted; 0 accepts every answer.

    Raises:
        ValueError: threshold NaN or below 0, or an example without exactly one clean row.
    """
    check_threshold(threshold)
    wrong = ~worst_case_outcomes(table, classifier).survivors(threshold)  # [N]
    below = any_attempt(table, table.answers(classifier).score() < threshold)  # [N]
    return Acceptance(right=~wrong & ~below, rejected=~wrong & below, wrong=wrong)
