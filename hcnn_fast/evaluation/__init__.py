"""What a prediction table says: rates with their denominators and exact intervals."""

from hcnn_fast.evaluation.intervals import Proportion, clopper_pearson
from hcnn_fast.evaluation.rejection import (
    RejectionMetrics,
    calibrated_threshold,
    rejection_metrics,
)

__all__ = [
    "Proportion",
    "RejectionMetrics",
    "calibrated_threshold",
    "clopper_pearson",
    "rejection_metrics",
]
