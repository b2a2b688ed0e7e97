"""What the demo measures: base and defended predictions, clean and attacked, as one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation import Proportion, RejectionMetrics, rejection_metrics


@dataclass(frozen=True)
class Predictions:
    """What one classifier says about n images.

    Attributes:
        label: [n] int64 predicted class, before any rejection.
        confidence: [n] float32 its probability.
        threshold: confidences below it are rejected.
        seconds: time it took.
    """

    label: Tensor  # [n] int64
    confidence: Tensor  # [n] float32
    threshold: float
    seconds: float

    @property
    def accepted(self) -> Tensor:  # [n] bool
        """Which images are not rejected."""
        return self.confidence >= self.threshold

    def summary(self, targets: Tensor) -> dict[str, Any]:  # targets [n] int64
        """Counts over all n images, mean confidences and speed as plain values."""
        right = self.label == targets
        total = len(targets)
        return {
            "accuracy": self.accuracy(targets).to_dict(),
            "right_and_accepted": Proportion(int((right & self.accepted).sum()), total).to_dict(),
            "wrong_and_accepted": Proportion(int((~right & self.accepted).sum()), total).to_dict(),
            "rejected": Proportion(int((~self.accepted).sum()), total).to_dict(),
            "mean_confidence": _mean(self.confidence),
            "mean_confidence_where_right": _mean(self.confidence[right]),
            "mean_confidence_where_wrong": _mean(self.confidence[~right]),
            "images_per_second": total / self.seconds,
        }

    def accuracy(self, targets: Tensor) -> Proportion:  # targets [n] int64
        """Right labels, whether accepted or not."""
        return Proportion(int((self.label == targets).sum()), len(targets))


@dataclass(frozen=True)
class Condition:
    """The evaluated images as they are, or under one attack.

    Attributes:
        attack_radius: l_inf radius of the attack on the base model; 0 for clean images.
        images: [n, C, H, W] float32.
        points: [n, C, H, W] float32, where the search ended.
        base: predictions of the base model at `images`.
        defended: its predictions at `points`.
        attack_seconds: time the attack took.
    """

    attack_radius: float
    images: Tensor  # [n, C, H, W]
    points: Tensor  # [n, C, H, W]
    base: Predictions
    defended: Predictions
    attack_seconds: float

    @property
    def name(self) -> str:
        """Either "clean", or the attack and its radius."""
        return f"attack {self.attack_radius:g}" if self.attack_radius > 0 else "clean"


@dataclass(frozen=True)
class ModelMeasurement:
    """All conditions of one model.

    Attributes:
        name: name of the model.
        targets: [n] int64 true labels of the evaluated images.
        calibration: correctly classified of all calibration images, for base and defence.
        conditions: clean first, then the attacks.
    """

    name: str
    targets: Tensor  # [n] int64
    calibration: dict[str, Proportion]
    conditions: tuple[Condition, ...]

    def rejection(self, condition: Condition, classifier: str) -> RejectionMetrics:
        """AWPR and recall; N are the points that the base model classifies correctly when clean.

        Args:
            condition: one of the attacked conditions.
            classifier: "base" or "defended".
        """
        clean = self.conditions[0]
        attacked: Predictions = getattr(condition, classifier)
        unattacked: Predictions = getattr(clean, classifier)
        return rejection_metrics(
            correct=clean.base.label == self.targets,
            attacked_wrong=attacked.label != self.targets,
            attacked_accepted=attacked.accepted,
            clean_accepted=unattacked.accepted,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images as plain values."""
        conditions = []
        for condition in self.conditions:
            entry: dict[str, Any] = {"attack_radius": condition.attack_radius}
            for classifier in ("base", "defended"):
                predictions: Predictions = getattr(condition, classifier)
                entry[classifier] = predictions.summary(self.targets)
                if condition.attack_radius > 0:
                    entry[classifier] |= self.rejection(condition, classifier).to_dict()
            if condition.attack_radius > 0:
                entry["attack_images_per_second"] = len(self.targets) / condition.attack_seconds
            conditions.append(entry)
        clean = self.conditions[0]
        return {
            "model": self.name,
            "images": len(self.targets),
            "thresholds": {
                "base": clean.base.threshold,
                "defended": clean.defended.threshold,
            },
            "calibration": {name: rate.to_dict() for name, rate in self.calibration.items()},
            "conditions": conditions,
        }


def _mean(values: Tensor) -> float | None:
    return float(values.mean(dtype=torch.float64)) if len(values) else None
