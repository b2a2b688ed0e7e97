"""The work behind `hcnn-fast demo`: calibrate, attack, search, and keep what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.attacks import pgd
from hcnn_fast.attacks.pgd import Objective as AttackObjective
from hcnn_fast.cli.demo_measurement import Condition, ModelMeasurement, Predictions
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.evaluation import calibrated_threshold

CHUNK = 32  # images between two movements of the progress bar


@dataclass(frozen=True)
class AttackPlan:
    """Projected gradient ascent on the base model.

    Attributes:
        radii: l_inf radii, rising.
        steps: gradient steps.
        starts: random restarts.
        objective: what rises.
        seed: of the random first points.
    """

    radii: tuple[float, ...]
    steps: int
    starts: int
    objective: AttackObjective
    seed: int


@dataclass(frozen=True)
class Split:
    """Images and their classes."""

    images: Tensor  # [n, C, H, W] float32
    targets: Tensor  # [n] int64


def passes(evaluated: int, held_out: int, plan: AttackPlan) -> int:
    """How often `measure` reports an image as done."""
    return held_out + evaluated * (1 + 2 * len(plan.radii))


def measure(
    name: str,
    model: nn.Module,
    *,
    evaluated: Split,
    held_out: Split,
    config: SearchConfig,
    plan: AttackPlan,
    tpr: float,
    advance: Callable[[int], None],
) -> ModelMeasurement:
    """Compare a model with its defence on clean images and under static attacks.

    Both thresholds come from the clean held-out images alone, by the same rule.

    Args:
        name: name of the model.
        model: in eval mode.
        evaluated: the images that count.
        held_out: other images, for the thresholds.
        config: the search.
        plan: the attacks on the base model.
        tpr: share of correct answers on held-out images that stays accepted.
        advance: called with a number of images that are done.

    Raises:
        ValueError: a classifier is right on no held-out image.
    """
    defense = Defense(model, config)
    base = _base(model, held_out.images, 0.0)
    defended, _ = _defended(defense, held_out.images, 0.0, advance)
    thresholds = []
    for predictions in (base, defended):
        correct = predictions.label == held_out.targets
        thresholds.append(calibrated_threshold(predictions.confidence, correct, tpr))
    calibration = {
        "base": base.accuracy(held_out.targets),
        "defended": defended.accuracy(held_out.targets),
    }
    conditions = []
    for radius in (0.0, *plan.radii):
        images, seconds = evaluated.images, 0.0
        if radius > 0.0:
            images, seconds = _attacked(model, evaluated, radius, plan, config, advance)
        defended, points = _defended(defense, images, thresholds[1], advance)
        conditions.append(
            Condition(
                attack_radius=radius,
                images=images,
                points=points,
                base=_base(model, images, thresholds[0]),
                defended=defended,
                attack_seconds=seconds,
            )
        )
    return ModelMeasurement(name, evaluated.targets, calibration, tuple(conditions))


def _base(model: nn.Module, images: Tensor, threshold: float) -> Predictions:
    began = time.perf_counter()
    with torch.inference_mode():
        logits = torch.cat([as_logits(model(part), len(part)) for part in _parts(images)])
        confidence, label = logits.float().softmax(1).max(1)
    seconds = time.perf_counter() - began
    return Predictions(label.clone(), confidence.clone(), threshold, seconds)


def _defended(
    defense: Defense, images: Tensor, threshold: float, advance: Callable[[int], None]
) -> tuple[Predictions, Tensor]:
    began = time.perf_counter()
    found = []
    for part in _parts(images):
        found.append(defense.predict(part).search)
        advance(len(part))
    seconds = time.perf_counter() - began
    label = torch.cat([result.prediction for result in found])
    confidence = torch.cat([result.confidence for result in found])
    points = torch.cat([result.point for result in found])
    return Predictions(label, confidence, threshold, seconds), points


def _attacked(
    model: nn.Module,
    split: Split,
    radius: float,
    plan: AttackPlan,
    config: SearchConfig,
    advance: Callable[[int], None],
) -> tuple[Tensor, float]:
    began = time.perf_counter()
    found = []
    for images, targets in zip(_parts(split.images), _parts(split.targets), strict=True):
        result = pgd(
            model,
            images,
            targets,
            radius=radius,
            steps=plan.steps,
            starts=plan.starts,
            objective=plan.objective,
            seed=plan.seed,
            bounds=config.bounds,
            backend=config.backend,
        )
        found.append(result.point)
        advance(len(images))
    return torch.cat(found), time.perf_counter() - began


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
