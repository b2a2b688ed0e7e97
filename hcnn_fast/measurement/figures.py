"""What the measurements say: rates, shares of the machine's rates, and what bounds a run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from hcnn_fast.measurement.observation import Observation
from hcnn_fast.measurement.roofs import Roofs
from hcnn_fast.measurement.work import ModelWork

OUTSIDE_BOUND = 0.5  # from this share of the time on, what is outside the model bounds the run
SATURATED = 0.3  # share of the model's time from which on a roof explains it


@dataclass(frozen=True)
class CostFigures:
    """Everything that was measured of one way to solve one problem.

    Attributes:
        images: N.
        asked_steps: N * labels * starts * steps, the gradient steps of the problem as posed; a
            search that may stop early can spend fewer (`observation.outcome.backwards`).
        seconds: of each round, without a clock in the model.
        observation: a watched run of the same.
        work: what the model's passes need.
        roofs: what the machine can do.
    """

    images: int
    asked_steps: int
    seconds: tuple[float, ...]
    observation: Observation
    work: ModelWork
    roofs: Roofs

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations of the model's passes over the whole time of a round."""
        return self._work("flops") / self.median

    def to_dict(self) -> dict[str, Any]:
        """Measurements and what follows from them, as plain values."""
        watched, outcome = self.observation, self.observation.outcome
        return {
            "images": self.images,
            "seconds": list(self.seconds),
            "median_seconds": self.median,
            "images_per_second": self.images / self.median,
            "asked_gradient_steps": self.asked_steps,
            "gradient_steps": outcome.backwards,
            "forward_passes": outcome.forwards,
            "gradient_steps_per_second": outcome.backwards / self.median,
            "microseconds_per_gradient_step": 1e6 * self.median / max(1, outcome.backwards),
            "microseconds_per_asked_gradient_step": 1e6 * self.median / self.asked_steps,
            "share_outside_model": watched.outside_share,
            "share_outside_model_unknown": watched.unknown,
            "clocked_seconds": watched.seconds,
            "largest_batch": watched.batch,
            "flops_per_second": self.flops_per_second,
            "share_of_matrix_product_rate": self.flops_per_second / self.roofs.flops_per_second,
            "model_bytes_per_second": self._work("bytes") / self.median,
            "share_of_copy_rate": self._work("bytes") / self.median / self.roofs.bytes_per_second,
            "peak_memory_bytes": watched.peak_memory,
            "peak_memory_kind": watched.memory_kind,
            "mean_confidence": float(outcome.confidence.double().mean()),
            "bound": self.bound(),
        }

    def bound(self) -> str:
        """One sentence: what the time goes into, and why it is not less."""
        outside = self.observation.outside_share
        if outside is None:
            return f"What bounds it is unknown: {self.observation.unknown}."
        if outside >= OUTSIDE_BOUND:
            return (
                f"Python and small kernels outside the model take {outside:.0%} of the time: they"
                " bound it, and more images at a time would share them."
            )
        model_seconds = (1.0 - outside) * self.median
        arithmetic = self._work("flops") / self.roofs.flops_per_second / model_seconds
        traffic = self._work("bytes") / self.roofs.bytes_per_second / model_seconds
        opening = (
            f"The model's own forward and backward take {1.0 - outside:.0%} of the time, at"
            f" {arithmetic:.0%} of the matrix-product rate"
        )
        if max(arithmetic, traffic) < SATURATED:
            return (
                f"{opening} and {traffic:.0%} of the copy rate: layers too small to fill the"
                " machine bound it."
            )
        if arithmetic >= traffic:
            return f"{opening}: arithmetic bounds it."
        return (
            f"{opening}, while its layers read and write {traffic:.0%} of what a copy moves in that"
            " time (caches allow more than 100%): memory bounds it."
        )

    def _work(self, kind: str) -> float:
        """Floating-point operations ("flops") or bytes ("bytes") of all passes of a round."""
        outcome = self.observation.outcome
        total: float = getattr(self.work, kind)(outcome.forwards, outcome.backwards)
        return total
