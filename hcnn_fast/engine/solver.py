"""Solving a block of images: all their labels and starts as one batch of candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ascent import Ball, Candidates, Climb, ascend, distance, objective
from hcnn_fast.engine.inputs import check_finite
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.nearest import approach


@dataclass(frozen=True)
class Winners:
    """The best of every label, and of every image, in a block of n images with L labels each.

    Attributes:
        point: [n, *image], logits: [n, C], prediction: [n] likeliest class, of the winner.
        winner: [n] position of the winning label.
        label_value: [n, L], label_logits: [n, L, C], label_point: [n, L, *image] or None.
    """

    point: Tensor
    logits: Tensor
    prediction: Tensor
    winner: Tensor
    label_value: Tensor
    label_logits: Tensor
    label_point: Tensor | None


class Solver:
    """A prepared model and the problem to solve with it.

    Args:
        model: gives the logits.
        config: the problem.
        backend: a backend name that `backends.resolve` returned.
        batch: candidates that pass the model at once; shrinks when memory fails.
    """

    def __init__(
        self, model: PreparedModel, config: SearchConfig, backend: str, batch: int
    ) -> None:
        self.model = model
        self.config = config
        self.backend = backend
        self.batch = batch
        self.phases = 2 if config.objective == "ncn" or config.distance_weight > 0 else 1

    def solve(
        self,
        x: Tensor,  # [n, *image]
        base: Tensor,  # [n, C] logits at x
        labels: Tensor,  # [n, L]
    ) -> Winners:
        """Best point of every label and the winner among them (spec H.1, steps 2 to 4)."""
        tried = labels.shape[1]
        ball = Ball(
            image=x, radius=self.config.radius, bounds=self.config.bounds, backend=self.backend
        )
        candidates = self._candidates(labels, ball)
        index, label = candidates.index, candidates.label
        best = torch.empty_like(candidates.point)
        logits = base.new_empty((len(candidates), base.shape[1]))

        def run(begin: int, end: int) -> None:
            best[begin:end] = self._climb(candidates.part(begin, end), ball)
            with torch.no_grad():
                logits[begin:end] = check_finite(self.model.exact(best[begin:end]))

        self.batch = in_batches(len(candidates), self.batch, run)
        value = self._value(logits, label, distance(best, ball, index, self.config.distance_norm))
        own = self._value(base[index], label, torch.zeros_like(value))
        worse = own > value  # an image never gets less than it has itself
        best[worse] = x[index[worse]]
        logits[worse] = base[index[worse]]
        value = torch.maximum(own, value)
        certainty, _ = objective(logits, label, "log_probability", 1.0, self.backend)
        row, winner, point, prediction = ops.select(
            best,
            logits,
            value,
            certainty,
            labels=tried,
            starts=self.config.starts,
            backend=self.backend,
        )
        return Winners(
            point=point,
            logits=logits[row.gather(1, winner[:, None])[:, 0]],
            prediction=prediction,
            winner=winner,
            label_value=value[row],
            label_logits=logits[row],
            label_point=best[row] if self.config.keep_points else None,
        )

    def _candidates(self, labels: Tensor, ball: Ball) -> Candidates:
        """Image-major, then label, then start; each at its first point."""
        images, tried = labels.shape
        starts = self.config.starts
        index = torch.arange(images, device=labels.device).repeat_interleave(tried * starts)
        label = labels.reshape(-1).repeat_interleave(starts)
        start = torch.arange(starts, device=labels.device).repeat(images * tried)
        point = ops.random_starts(
            ball.image,
            ops.content_hash(ball.image, backend=ball.backend),
            index,
            label,
            start,
            seed=self.config.seed,
            radius=ball.radius,
            bounds=ball.bounds,
            backend=ball.backend,
        )
        return Candidates(index=index, label=label, point=point)

    def _climb(self, candidates: Candidates, ball: Ball) -> Tensor:  # [B, *image]
        """Best point of each candidate, by one run or two (see `hcnn_fast.search`)."""
        config = self.config
        entropy = config.objective == "entropy"
        first = Climb(
            kind="negative_entropy" if entropy else "log_probability",
            order=1.0 if config.order is None else config.order,
            step_sizes=config.step_sizes(),
            momentum=config.momentum,
        )
        best, _ = ascend(self.model.fast, candidates, ball, first)
        if self.phases == 1:
            return best
        again = Candidates(index=candidates.index, label=candidates.label, point=best)
        if config.confidence is not None:
            best, _ = approach(
                self.model.exact,
                again,
                ball,
                confidence=config.confidence,
                steps=config.steps,
                norm=config.distance_norm,
            )
            return best
        second = Climb(
            kind="probability",
            step_sizes=config.step_sizes(second_run=True),
            momentum=config.momentum,
            distance_weight=config.distance_weight,
            norm=config.distance_norm,
        )
        best, _ = ascend(self.model.fast, again, ball, second)
        return best

    def _value(
        self,
        logits: Tensor,  # [B, C]
        label: Tensor,  # [B]
        away: Tensor,  # [B] distance from the image
    ) -> Tensor:  # [B]
        """The objective of the problem at points with these logits and distances."""
        config = self.config
        if config.objective == "entropy":
            order = 1.0 if config.order is None else config.order
            return objective(logits, label, "negative_entropy", order, self.backend)[0]
        if config.confidence is not None:
            odds, _ = objective(logits, label, "log_odds", 1.0, self.backend)
            threshold = math.log(config.confidence) - math.log1p(-config.confidence)
            return torch.where(odds >= threshold, -away, -math.inf)
        probability, _ = objective(logits, label, "probability", 1.0, self.backend)
        return probability - config.distance_weight * away
