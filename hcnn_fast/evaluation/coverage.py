"""Selective prediction: the risk of what is accepted against how much is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.evaluation.answers import as_column
from hcnn_fast.evaluation.intervals import Proportion


@dataclass(frozen=True)
class RiskCoverage:
    """Errors among the accepted at every threshold "score >= t" that accepts another number.

    Attributes:
        threshold: [T] float64, the distinct scores descending.
        accepted: [T] int64, examples with score >= threshold.
        errors: [T] int64, errors among them.
        total: N, all examples.
    """

    threshold: Tensor
    accepted: Tensor
    errors: Tensor
    total: int

    def at(self, index: int) -> tuple[Proportion, Proportion]:
        """Coverage (accepted of N) and risk (errors of the accepted) at a threshold."""
        accepted, errors = int(self.accepted[index]), int(self.errors[index])
        return Proportion(accepted, self.total), Proportion(errors, accepted)

    def area(self) -> float:
        """AURC (Geifman et al. 2019): the mean over n = 1, ..., N of the risk of the n best scores.

        Equal scores have no order: within them the risk is its mean over all orders, so that the
        area depends on the scores alone. NaN for N = 0.
        """
        accepted = torch.cat((self.accepted.new_zeros(1), self.accepted)).double()  # [T + 1]
        errors = torch.cat((self.errors.new_zeros(1), self.errors)).double()  # [T + 1]
        group = accepted.diff()  # [T] examples of one score
        rank = torch.arange(1, self.total + 1).double()  # [N]
        owner = torch.repeat_interleave(torch.arange(len(group)), group.long())  # [N]
        share = errors.diff() / group  # [T] of errors in the group
        expected = errors[owner] + (rank - accepted[owner]) * share[owner]  # [N]
        return float((expected / rank).mean())

    def least_area(self) -> float:
        """The area of a score that puts every error last: what no order of the scores can beat."""
        if self.total == 0:
            return math.nan
        rank = torch.arange(1, self.total + 1).double()  # [N]
        right = self.total - int(self.errors[-1])
        return float(((rank - right).clamp_min(0.0) / rank).mean())

    def excess_area(self) -> float:
        """E-AURC (Geifman et al. 2019): the area above the least one, 0 for a perfect order."""
        return self.area() - self.least_area()


def risk_coverage(
    score: Tensor,  # [N]
    error: Tensor,  # [N] bool
) -> RiskCoverage:
    """The risk-coverage curve of a score; equal scores are accepted together.

    For the worst case under attack give each example the score and the verdict of its most
    confident wrong attempt, where there is one.

    Args:
        score: what acceptance goes by, such as the confidence; -inf is accepted last.
        error: whether accepting the example is an error.

    Raises:
        TypeError, ValueError: NaN, other types, or different lengths.
    """
    scores = as_column("score", score, torch.float64)  # [N]
    errors = as_column("error", error, torch.bool)  # [N]
    if len(scores) != len(errors):
        raise ValueError(
            f"error has the length {len(errors)}, expected that of score, {len(scores)}"
        )
    threshold, owner = torch.unique(scores, return_inverse=True)  # [T] ascending, [N]
    per_score = torch.zeros(2, len(threshold), dtype=torch.int64)  # [2, T] examples, errors
    per_score[0].scatter_add_(0, owner, torch.ones_like(owner))
    per_score[1].scatter_add_(0, owner, errors.long())
    accepted, wrong = per_score.flip(1).cumsum(1)  # [T], [T]
    return RiskCoverage(threshold.flip(0), accepted, wrong, len(scores))
