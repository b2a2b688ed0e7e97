"""Solving a block of images: all their labels and starts as batches of candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball, distance
from hcnn_fast.engine.climber import Climber
from hcnn_fast.engine.headroom import SAFETY
from hcnn_fast.engine.inputs import check_finite
from hcnn_fast.engine.look import Look, Looker, Prospects
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.runs import Runs
from hcnn_fast.engine.slopes import objective


@dataclass(frozen=True)
class Winners:
    """The best of every label, and of every image, in a block of n images with L labels each.

    Attributes:
        labels: [n, L] int64, the labels tried.
        point: [n, *image], logits: [n, C], prediction: [n] likeliest class, of the winner.
        winner: [n] position of the winning label.
        label_value, label_confidence, label_prediction: [n, L] of the best point of each label.
        label_point: [n, L, *image] or None.
        steps: [n] int64, gradient steps spent on each image.
        forwards, backwards: passes of single images through the model.
    """

    labels: Tensor
    point: Tensor
    logits: Tensor
    prediction: Tensor
    winner: Tensor
    label_value: Tensor
    label_confidence: Tensor
    label_prediction: Tensor
    label_point: Tensor | None
    steps: Tensor
    forwards: int
    backwards: int


@dataclass
class _Block:
    """The candidates of n images, and the best point that is known of each."""

    runs: Runs  # B = n * L * S, by image, then label, then start
    look: Look
    own: Tensor  # [B] value of the image itself
    best: Tensor  # [B, *image]
    logits: Tensor  # [B, C] the model at the best points
    value: Tensor  # [B]
    steps: Tensor  # [B] int64
    forwards: int
    backwards: int


class Solver:
    """A prepared model and the problem to solve with it.

    Args:
        model: gives the logits.
        config: the problem.
        backend: a backend name that `backends.resolve` returned.
        batch: candidates that pass the model at once.
    """

    def __init__(
        self, model: PreparedModel, config: SearchConfig, backend: str, batch: int
    ) -> None:
        self.model = model
        self.config = config
        self.backend = backend
        self.climber = Climber(model, config, batch)
        self.looker = Looker(model, config, self.climber.first, backend)

    def solve(
        self,
        x: Tensor,  # [n, *image]
    ) -> Winners:
        """Best point of every label and the winner among them (spec H.1, steps 2 to 4)."""
        config = self.config
        ball = Ball(image=x, radius=config.radius, bounds=config.bounds, backend=self.backend)
        prospects: Prospects | None = None
        if config.tolerance > 0.0 and config.objective != "entropy":
            look, prospects = self.looker.at_likely_winners(x, self.climber.batch)
        else:
            look = self.looker.at_all_labels(x, self.climber.batch)
        self.climber.batch = look.batch
        block = self._block(look, ball)
        if prospects is None:
            self._improve(block, torch.arange(len(block.runs), device=x.device))
        else:
            self._race(block, prospects)
        certainty, _ = objective(
            block.logits, block.runs.label, "log_probability", 1.0, self.backend
        )
        row, winner, point, prediction = ops.select(
            block.best,
            block.logits,
            block.value,
            certainty,
            labels=self.looker.tried,
            starts=config.starts,
            backend=self.backend,
        )
        label_logits = block.logits[row]  # [n, L, C]
        return Winners(
            labels=look.labels,
            point=point,
            logits=block.logits[row.gather(1, winner[:, None])[:, 0]],
            prediction=prediction,
            winner=winner,
            label_value=block.value[row],
            label_confidence=torch.softmax(label_logits, 2).amax(2).float(),
            label_prediction=label_logits.argmax(2),
            label_point=block.best[row] if config.keep_points else None,
            steps=block.steps.view(len(x), -1).sum(1),
            forwards=block.forwards,
            backwards=block.backwards,
        )

    def _block(self, look: Look, ball: Ball) -> _Block:
        """All candidates of the images, where nothing better is known than the images."""
        labels = look.labels
        images, tried = labels.shape
        starts = self.config.starts
        index = torch.arange(images, device=labels.device).repeat_interleave(tried * starts)
        label = labels.reshape(-1).repeat_interleave(starts)
        start = torch.arange(starts, device=labels.device).repeat(images * tried)
        runs = Runs(
            ball=ball,
            hashes=ops.content_hash(ball.image, backend=ball.backend),
            index=index,
            label=label,
            start=start,
            starts=starts,
            seed=self.config.seed,
        )
        logits = look.logits[index]
        own = self._value(logits, label, None)
        return _Block(
            runs=runs,
            look=look,
            own=own,
            best=ball.image[index],
            logits=logits,
            value=own.clone(),
            steps=torch.zeros_like(index),
            forwards=look.forwards,
            backwards=look.backwards,
        )

    def _race(self, block: _Block, prospects: Prospects) -> None:
        """Climb for the most promising label first, then for those that could still pass it.

        NCN has no leader: its labels drop out where no point in reach is confident enough.
        """
        starts = self.config.starts
        possible = prospects.attainable(SAFETY)  # [n, L]
        if self.config.confidence is not None:
            self._improve(block, self._rows_of(possible >= self.config.confidence))
            return
        hopes = prospects.attainable(1.0).masked_fill(block.look.row < 0, -1.0)
        leads = torch.zeros_like(possible, dtype=torch.bool)
        leads.scatter_(1, hopes.argmax(1, keepdim=True), True)
        self._improve(block, self._rows_of(leads))
        value = block.value.view(*leads.shape, starts).amax(2)  # [n, L]
        floor = value[leads][:, None]  # [n, 1]
        challenges = (possible > floor + self.config.tolerance) & ~leads
        self._improve(block, self._rows_of(challenges), floor[block.runs.index, 0])

    def _rows_of(
        self,
        chosen: Tensor,  # [n, L] bool
    ) -> Tensor:  # [b] int64
        """The candidates of some labels, with all their starts."""
        return chosen.flatten().repeat_interleave(self.config.starts).nonzero()[:, 0]

    def _improve(
        self,
        block: _Block,
        rows: Tensor,  # [b] int64
        floor: Tensor | None = None,  # [B] value that is reached already
    ) -> None:
        """Run these candidates and keep what is not worse than the image itself."""
        starts = self.config.starts
        slope_of = block.look.row.flatten()[rows // starts].where(rows % starts == 0, -1)
        for known in (True, False):
            which = rows[(slope_of >= 0) == known]
            if not len(which):
                continue
            runs = block.runs.rows(which)
            candidates = runs.candidates()
            first = block.look.slope.rows(slope_of[slope_of >= 0]) if known else None
            passed = None if floor is None else floor[which]
            found = self.climber.climb(candidates, runs.ball, first, passed, runs.elsewhere)
            away = None
            if self.config.distance_weight > 0.0 or self.config.confidence is not None:
                away = distance(found.point, runs.ball, candidates.index, self.config.distance_norm)
            value = self._value(check_finite(found.logits), candidates.label, away)
            kept = ~(block.own[which] > value)  # an image never gets less than it has itself
            block.best[which[kept]] = found.point[kept]
            block.logits[which[kept]] = found.logits[kept]
            block.value[which[kept]] = value[kept]
            block.steps[which] = found.steps
            block.forwards += found.forwards
            block.backwards += found.backwards

    def _value(
        self,
        logits: Tensor,  # [B, C]
        label: Tensor,  # [B]
        away: Tensor | None,  # [B] distance from the image; None: 0, or of no account
    ) -> Tensor:  # [B]
        """The objective of the problem at points with these logits and distances."""
        config = self.config
        if config.objective == "entropy":
            order = 1.0 if config.order is None else config.order
            return objective(logits, label, "negative_entropy", order, self.backend)[0]
        if config.confidence is not None:
            odds, _ = objective(logits, label, "log_odds", 1.0, self.backend)
            threshold = math.log(config.confidence) - math.log1p(-config.confidence)
            near = torch.zeros_like(odds) if away is None else -away
            return torch.where(odds >= threshold, near, -math.inf)
        probability, _ = objective(logits, label, "probability", 1.0, self.backend)
        return probability if away is None else probability - config.distance_weight * away
