"""How often errors pass a confidence threshold: AWPR and recall of Wu et al. 2018, section 5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hcnn_fast.evaluation.intervals import Proportion, plain_values
from hcnn_fast.evaluation.outcomes import Outcomes
from hcnn_fast.evaluation.robustness import check_threshold


@dataclass(frozen=True)
class RejectionMetrics:
    """Rates over N, the points that the base model classifies correctly when clean.

    Attributes:
        awpr_original: points of N whose attacked version gets a wrong label, accepted or not.
        awpr_with_rejection: points of N whose attacked version gets a wrong label and is accepted.
        recall: points of N that are accepted when clean.
    """

    awpr_original: Proportion
    awpr_with_rejection: Proportion
    recall: Proportion

    def to_dict(self) -> dict[str, Any]:
        """The three proportions as plain values."""
        return plain_values(self)


def rejection_metrics(
    *,
    correct: Tensor,  # [N] bool
    attacked_wrong: Tensor,  # [N] bool
    attacked_accepted: Tensor,  # [N] bool
    clean_accepted: Tensor,  # [N] bool
) -> RejectionMetrics:
    """AWPR without and with rejection, and the recall (Wu et al. 2018, section 5.1).

    Args:
        correct: the base model is right on the clean image; the others count nowhere.
        attacked_wrong: the classifier under test labels the attacked image wrongly.
        attacked_accepted: it accepts the attacked image.
        clean_accepted: it accepts the clean image.

    Raises:
        ValueError: the tables differ in length.
    """
    tables = (correct, attacked_wrong, attacked_accepted, clean_accepted)
    if len({tuple(table.shape) for table in tables}) != 1:
        shapes = ", ".join(str(tuple(table.shape)) for table in tables)
        raise ValueError(f"the tables have the shapes {shapes}, expected one shape [N]")
    total = int(correct.sum())
    wrong = correct & attacked_wrong
    return RejectionMetrics(
        awpr_original=Proportion(int(wrong.sum()), total),
        awpr_with_rejection=Proportion(int((wrong & attacked_accepted).sum()), total),
        recall=Proportion(int((correct & clean_accepted).sum()), total),
    )


def rejection_metrics_at(outcomes: Outcomes, threshold: float) -> RejectionMetrics:
    """AWPR and recall of HCNN's rule "reject below p", the worst attempt counting for each event.

    With the outcomes of the base classifier these are the columns of the paper's Tables 2 and 3;
    with those of the defended one, attacks and acceptance are its own and the denominator stays.

    Args:
        outcomes: the worst case over the attempts of one threat model.
        threshold: p, the smallest confidence that is accepted.

    Raises:
        ValueError: threshold NaN or below 0, or no attempt on an example that the base gets right.
    """
    check_threshold(threshold)
    outcomes.check_attacked(outcomes.base_right)
    return rejection_metrics(
        correct=outcomes.base_right,
        attacked_wrong=outcomes.wrong_score >= 0.0,
        attacked_accepted=outcomes.wrong_score >= threshold,
        clean_accepted=outcomes.clean_score >= threshold,
    )


def calibrated_threshold(
    confidence: Tensor,  # [N]
    correct: Tensor,  # [N] bool
    tpr: float,
) -> float:
    """The threshold that keeps at least a share `tpr` of the correct answers.

    The rule of CCAT (Stutz et al. 2020): entry floor(n * (1 - tpr)) of the n sorted confidences of
    correct answers on clean held-out images.

    Raises:
        ValueError: tpr outside (0, 1], or no answer is correct.
    """
    if not 0.0 < tpr <= 1.0:
        raise ValueError(f"tpr is {tpr!r}, expected a number in (0, 1]")
    kept = confidence[correct].sort().values
    if not len(kept):
        raise ValueError("confidence has no correct answer to calibrate on")
    dropped = math.floor(len(kept) * (1.0 - tpr) + 1e-9)
    return float(kept[min(dropped, len(kept) - 1)])
