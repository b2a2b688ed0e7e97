"""What a table of attempts says: rates with their denominators and exact intervals."""

from hcnn_fast.evaluation.acceptance import Acceptance, acceptance
from hcnn_fast.evaluation.answers import Answers
from hcnn_fast.evaluation.ccat import (
    CcatMetrics,
    Detection,
    ccat_curve,
    ccat_metrics,
    detection,
    distal_detection,
)
from hcnn_fast.evaluation.coverage import RiskCoverage, risk_coverage
from hcnn_fast.evaluation.half_radius import (
    HalfRadiusBound,
    half_radius_bound,
    half_radius_bound_from_rates,
)
from hcnn_fast.evaluation.intervals import Proportion, clopper_pearson
from hcnn_fast.evaluation.masking import (
    Finding,
    MaskingMeasurements,
    MaskingReport,
    masking_report,
)
from hcnn_fast.evaluation.outcomes import (
    Outcomes,
    any_attempt,
    selected_attempt_outcomes,
    worst_case_outcomes,
)
from hcnn_fast.evaluation.paired import PairedDifference, paired_difference
from hcnn_fast.evaluation.recovery import (
    RecoveryCounts,
    RecoveryTable,
    label_ranks,
    recovery_table,
)
from hcnn_fast.evaluation.rejection import (
    RejectionMetrics,
    calibrated_threshold,
    rejection_metrics,
    rejection_metrics_at,
)
from hcnn_fast.evaluation.robustness import RobustError, robust_error
from hcnn_fast.evaluation.roc import AreaUnderCurve, RocCurve, roc_curve
from hcnn_fast.evaluation.separation import Separation, estimate_separation, points_needed
from hcnn_fast.evaluation.small_perturbations import StratifiedPoint, stratified_rejection
from hcnn_fast.evaluation.table import AttemptTable, concatenate
from hcnn_fast.evaluation.table_files import read_attempts, write_attempts

__all__ = [
    "Acceptance",
    "Answers",
    "AreaUnderCurve",
    "AttemptTable",
    "CcatMetrics",
    "Detection",
    "Finding",
    "HalfRadiusBound",
    "MaskingMeasurements",
    "MaskingReport",
    "Outcomes",
    "PairedDifference",
    "Proportion",
    "RecoveryCounts",
    "RecoveryTable",
    "RejectionMetrics",
    "RiskCoverage",
    "RobustError",
    "RocCurve",
    "Separation",
    "StratifiedPoint",
    "acceptance",
    "any_attempt",
    "calibrated_threshold",
    "ccat_curve",
    "ccat_metrics",
    "clopper_pearson",
    "concatenate",
    "detection",
    "distal_detection",
    "estimate_separation",
    "half_radius_bound",
    "half_radius_bound_from_rates",
    "label_ranks",
    "masking_report",
    "paired_difference",
    "points_needed",
    "read_attempts",
    "recovery_table",
    "rejection_metrics",
    "rejection_metrics_at",
    "risk_coverage",
    "robust_error",
    "roc_curve",
    "selected_attempt_outcomes",
    "stratified_rejection",
    "worst_case_outcomes",
    "write_attempts",
]
