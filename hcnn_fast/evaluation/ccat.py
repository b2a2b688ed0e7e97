"""Confidence-thresholded errors of CCAT (Stutz, Hein and Schiele 2020) in both published forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation.intervals import Proportion, plain_values
from hcnn_fast.evaluation.outcomes import Outcomes
from hcnn_fast.evaluation.robustness import check_threshold
from hcnn_fast.evaluation.roc import AreaUnderCurve, RocCurve, roc_curve


@dataclass(frozen=True)
class CcatMetrics:
    """Rates at one threshold tau; x is the clean image, x' an attempt, c the confidence.

    The published code prints 0 where nothing is accepted; here such a rate is 0/0, without a value.

    Attributes:
        threshold: tau; accepted is c >= tau.
        tpr: accepted of the correctly classified clean images.
        error: Err, wrong of the accepted clean images.
        robust_error_iclr: RErr of the ICLR 2020 text (equation 7). Wrong and accepted x, or x right
            and some x' wrong and accepted; of the accepted x and, where x is rejected, those second
            errors. A larger set of attempts never lowers it.
        robust_error_icml: RErr of the ICML 2020 code. Some of x, x' wrong and accepted; of those
            where some of x, x' is accepted. A further attempt that is right and accepted where x is
            rejected lowers it.
        robust_error_supremum: the largest value of the latter that an attacker reaches who chooses
            one x' per image: of those where x is accepted or some x' is wrong and accepted. No
            smaller than the other two; a larger set of attempts never lowers it.
        false_positive_rate: x right and some x' wrong and accepted, of all N images.
    """

    threshold: float
    tpr: Proportion
    error: Proportion
    robust_error_iclr: Proportion
    robust_error_icml: Proportion
    robust_error_supremum: Proportion
    false_positive_rate: Proportion

    def to_dict(self) -> dict[str, Any]:
        """The threshold and the proportions as plain values."""
        return plain_values(self)


def _share(event: Tensor, among: Tensor) -> Proportion:  # [N] bool, [N] bool
    return Proportion(int((event & among).sum()), int(among.sum()))


def ccat_metrics(outcomes: Outcomes, threshold: float) -> CcatMetrics:
    """The errors of CCAT at a threshold (spec B.6), every attempt counting for every event.

    Take the threshold from clean held-out images (`calibrated_threshold`), never from those here.

    Args:
        outcomes: all examples clean and attacked; from `worst_case_outcomes`, or, to compare with
            published numbers, from `selected_attempt_outcomes`.
        threshold: smallest confidence that is accepted; 0 gives the errors without rejection.

    Raises:
        ValueError: threshold NaN or below 0, or an example without an attempt.
    """
    check_threshold(threshold)
    everything = torch.ones_like(outcomes.right)  # [N]
    outcomes.check_attacked(everything)
    accepted = outcomes.clean_score >= threshold  # [N]
    clean_error = ~outcomes.right & accepted  # [N]
    hit = outcomes.wrong_score >= threshold  # [N] some attempt is wrong and accepted
    success = outcomes.right & hit  # [N] and the clean image was right
    attempt_accepted = outcomes.attacked_score >= threshold  # [N]
    return CcatMetrics(
        threshold=threshold,
        tpr=_share(accepted, outcomes.right),
        error=_share(clean_error, accepted),
        robust_error_iclr=_share(clean_error | success, accepted | success),
        robust_error_icml=_share(clean_error | hit, accepted | attempt_accepted),
        robust_error_supremum=_share(clean_error | hit, accepted | hit),
        false_positive_rate=_share(success, everything),
    )


def ccat_curve(outcomes: Outcomes) -> tuple[CcatMetrics, ...]:
    """The metrics at 0 and at every threshold at which one of them can change, ascending.

    Raises:
        ValueError: an example without an attempt.
    """
    columns = (outcomes.clean_score, outcomes.wrong_score, outcomes.attacked_score)
    scores = torch.unique(torch.cat(columns))  # [T]
    thresholds = {0.0, *scores[scores >= 0.0].tolist()}
    return tuple(ccat_metrics(outcomes, threshold) for threshold in sorted(thresholds))


@dataclass(frozen=True)
class Detection:
    """How well the confidence tells successful attempts from images; not the FPR's ROC curve.

    Negatives are the right images with a wrong attempt, scored by the most confident wrong one.

    Attributes:
        against_all: positives are all clean images (the released code).
        against_right: positives are the correctly classified clean images (the text).
    """

    against_all: RocCurve
    against_right: RocCurve

    def areas(self) -> dict[str, AreaUnderCurve]:
        """The area under each curve by the name of its field."""
        return {name: curve.area() for name, curve in vars(self).items()}


def detection(outcomes: Outcomes) -> Detection:
    """The ROC curves behind CCAT's AUC, whose denominator is not that of its FPR (spec B.6).

    Raises:
        ValueError: a correctly classified example without an attempt.
    """
    outcomes.check_attacked(outcomes.right)
    successes = outcomes.wrong_score[outcomes.right & (outcomes.wrong_score >= 0.0)]
    return Detection(
        against_all=roc_curve(outcomes.clean_score, successes),
        against_right=roc_curve(outcomes.clean_score[outcomes.right], successes),
    )


def distal_detection(reference: Outcomes, distal: Outcomes) -> RocCurve:
    """The ROC curve of images against inputs that show no class, such as noise (spec B.9).

    Every answer to the latter is an error, so their score is the largest of start and attempts.

    Args:
        reference: examples whose clean images are the positives.
        distal: examples with label -1, whose clean rows are the points where the attacks began.

    Raises:
        ValueError: an example of `distal` has a class.
    """
    if bool((distal.label >= 0).any()):
        example = int(distal.example[distal.label >= 0][0])
        raise ValueError(f"distal has a class for example {example}, expected the label -1")
    worst = torch.maximum(distal.clean_score, distal.attacked_score)  # [N]
    return roc_curve(reference.clean_score, worst)
