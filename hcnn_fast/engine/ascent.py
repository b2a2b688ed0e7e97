"""Projected gradient ascent of many candidates at once: the loop under search and attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.engine.ball import Ball, Candidates, distance
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.headroom import SAFETY, SHARE, attainable, reach
from hcnn_fast.engine.slopes import Forward, Slope, objective, slope

SHRINK_AT = 0.75  # share of the rows that still climb at which a batch shrinks
MOVED = 0  # what pgd_step_ writes to `motion` unless a row stayed or went back


def ascend(
    forward: Forward,
    candidates: Candidates,
    ball: Ball,
    climb: Climb,
    *,
    first: Slope | None = None,
    floor: Tensor | None = None,
) -> Ascent:
    """Best point of every run: T steps take T + 1 forward and T backward passes (spec H.1).

    A run ends early where no further step can change its result, and, with a tolerance, where less
    than a share of it is in reach, or not enough to pass `floor`. What a run finds does not depend
    on when others end, but for rounding. Without a tolerance no bit depends on it, as far as the
    slopes of a step tell: a pass more is made to see whether they are the same in a smaller batch.

    Args:
        forward: gives the logits.
        candidates: where the runs start.
        ball: what they may not leave.
        climb: what they climb.
        first: the slope of the objective where the first of the runs start, as far as it is known.
        floor: [B] probabilities; a run that cannot pass its own by more than the tolerance ends.
    """
    run = _Run(forward, _Rows.of(candidates, ball, climb, floor), ball, climb)
    for t in range(len(climb.step_sizes)):
        run.step(run.completed(first) if t == 0 and first is not None else None)
        if not run.goes_on():
            break
    return run.finish()


@dataclass
class _Rows:
    """The candidates of a batch, with all that a step reads and writes of them."""

    id: Tensor  # [b] int64, where the row's result belongs
    index: Tensor  # [b] int64
    label: Tensor  # [b] int64
    floor: Tensor | None  # [b]
    climbing: Tensor  # [b] bool; a run that has ended may stay in the batch for a while
    point: Tensor  # [b, *image]
    best: Tensor  # [b, *image]
    best_value: Tensor  # [b]
    best_logits: Tensor | None  # [b, C], none before the first pass
    pace: Tensor | None  # [b]
    step_size: Tensor  # [b]
    buffer: Tensor | None  # [b, *image] accumulated gradient
    away: Tensor | None  # [b] distance from the image
    penalty: Tensor | None  # [b]
    motion: Tensor | None  # [b] uint8
    previous: Tensor | None  # [b, *image]

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        ball: Ball,
        climb: Climb,
        floor: Tensor | None,  # [B]
    ) -> _Rows:
        """All candidates, before the first step."""
        point = candidates.point.clone()
        best_value = point.new_full((len(point),), -math.inf)
        weighed = climb.distance_weight > 0.0
        rests = climb.stops_at_rest
        return cls(
            id=torch.arange(len(point), device=point.device),
            index=candidates.index,
            label=candidates.label,
            floor=floor,
            climbing=torch.ones_like(best_value, dtype=torch.bool),
            point=point,
            best=point.clone(),
            best_value=best_value,
            best_logits=None,
            pace=candidates.pace,
            step_size=torch.empty_like(best_value),
            buffer=torch.zeros_like(point) if climb.momentum > 0.0 else None,
            away=distance(point, ball, candidates.index, climb.norm) if weighed else None,
            penalty=torch.empty_like(best_value) if weighed else None,
            motion=torch.zeros_like(best_value, dtype=torch.uint8) if rests else None,
            previous=torch.full_like(point, math.nan) if rests and climb.steady else None,
        )

    def __len__(self) -> int:
        return len(self.id)

    def take(self, which: Tensor) -> _Rows:  # [c] int64
        """Some of the rows, copied."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            taken[field.name] = None if tensor is None else tensor[which]
        return _Rows(**taken)


class _Run:
    """Rows that climb together. Those that have ended leave the batch when it pays."""

    def __init__(self, forward: Forward, rows: _Rows, ball: Ball, climb: Climb) -> None:
        self.forward, self.rows, self.ball, self.climb = forward, rows, ball, climb
        self.gathered = 0.0  # sum of the weights of the gradients in the momentum buffer
        self.taken = 0  # steps
        # Asking which runs have ended makes the host wait for the device.
        self.every = 1 if rows.point.device.type == "cpu" else 4
        self.near: Tensor | None = None  # [b] bool, rows with too little in reach
        self.fewest = len(rows)  # the smallest batch so far, or the last that was refused
        self.staying: Tensor | None = None  # [c] int64, rows of a smaller batch to be tried
        self.point = torch.empty_like(rows.point)
        self.value = torch.empty_like(rows.best_value)
        self.logits: Tensor | None = None
        self.steps = torch.empty_like(rows.id)
        self.forwards = self.backwards = 0

    def completed(self, first: Slope) -> Slope:
        """The slope of all rows, where that of the first few is known."""
        known = len(first.value)
        if known == len(self.rows):
            return first
        return Slope.cat([first, self._slope(self.rows.point[known:], self.rows.label[known:])])

    def _slope(self, point: Tensor, label: Tensor) -> Slope:  # [b, *image], [b]
        climb = self.climb
        self.forwards += len(point)
        self.backwards += len(point)
        return slope(self.forward, point, label, climb.kind, climb.order, self.ball.backend)

    def step(self, at: Slope | None) -> None:
        """One step of all rows, from a slope that is known or has to be found."""
        if at is None:
            at = self._slope(self.rows.point, self.rows.label)
            if self.staying is not None:
                at = self._without_others(self.staying, at)
                self.staying = None
        rows, climb = self.rows, self.climb
        value = -at.value if climb.downhill else at.value
        self._note_logits(value, at.logits)
        if climb.tolerance > 0.0:
            self.near = self._near_the_top(at)
        size = climb.step_sizes[self.taken]
        rows.step_size.fill_(-size if climb.downhill else size)
        if rows.pace is not None:
            rows.step_size.mul_(rows.pace)
        self.gathered = climb.momentum * self.gathered + 1.0
        if rows.penalty is not None:
            rows.penalty.fill_(climb.distance_weight * self.gathered)
        ops.pgd_step_(
            rows.point,
            at.gradient,
            self.ball.image,
            rows.index,
            rows.step_size,
            radius=self.ball.radius,
            bounds=self.ball.bounds,
            momentum_buffer=rows.buffer,
            momentum=climb.momentum,
            penalty=rows.penalty,
            norm=climb.norm,
            value=value,
            distance_weight=climb.distance_weight,
            best=rows.best,
            best_value=rows.best_value,
            distance=rows.away,
            previous=rows.previous,
            motion=rows.motion,
            backend=self.ball.backend,
        )
        self.taken += 1

    def goes_on(self) -> bool:
        """Whether a run still climbs; records those that end here, and shrinks the batch."""
        rows, ended = self.rows, self.near
        if rows.motion is not None:
            rests = rows.motion != MOVED
            ended = rests if ended is None else ended | rests
        if ended is None or self.taken % self.every:
            return True
        now = ended & rows.climbing
        if not bool(now.any()):
            return True
        self._record(now)
        rows.climbing &= ~now
        going = int(rows.climbing.sum())
        if 0 < going <= SHRINK_AT * self.fewest:
            staying = rows.climbing.nonzero()[:, 0]
            if self.climb.tolerance > 0.0:
                self.fewest = going
                self.rows = rows.take(staying)
            elif self._trial_pays(going):
                self.fewest = going
                self.staying = staying
        return going > 0

    def _trial_pays(self, going: int) -> bool:
        """Whether the steps that are left save more rows than the pass that is made twice has."""
        left = len(self.climb.step_sizes) - self.taken
        return (left - 1) * (len(self.rows) - going) > going

    def _without_others(self, staying: Tensor, at: Slope) -> Slope:  # [c] int64
        """The slope of a smaller batch, if no bit of it differs; else the batch stays as it is.

        A library may multiply few rows in another order than many.
        """
        rows = self.rows
        alone = self._slope(rows.point[staying], rows.label[staying])
        for name in ("value", "logits", "gradient"):
            if not torch.equal(getattr(alone, name), getattr(at, name)[staying]):
                return at
        self.rows = rows.take(staying)
        return alone

    def finish(self) -> Ascent:
        """Score the last points of the runs that went to the end, and collect all results."""
        rows, climb = self.rows, self.climb
        if bool(rows.climbing.any()):
            with torch.no_grad():
                logits = self.forward(rows.point)
            self.forwards += len(rows)
            value, _ = objective(logits, rows.label, climb.kind, climb.order, self.ball.backend)
            score = self._note_logits(-value if climb.downhill else value, logits)
            better = score > rows.best_value
            shape = (-1,) + (1,) * (rows.best.ndim - 1)
            rows.best = torch.where(better.view(shape), rows.point, rows.best)
            rows.best_value = torch.where(better, score, rows.best_value)
            self._record(rows.climbing)
        assert self.logits is not None, "an ascent has at least one candidate"
        return Ascent(
            point=self.point,
            value=self.value,
            logits=self.logits,
            steps=self.steps,
            forwards=self.forwards,
            backwards=self.backwards,
        )

    def _note_logits(
        self,
        value: Tensor,  # [b]
        logits: Tensor,  # [b, C]
    ) -> Tensor:  # [b]
        """Keep the logits of the points that are the best so far; returns the points' scores."""
        rows = self.rows
        score = value if rows.away is None else value - self.climb.distance_weight * rows.away
        if rows.best_logits is None:
            rows.best_logits = logits
        else:
            better = (score > rows.best_value)[:, None]
            rows.best_logits = torch.where(better, logits, rows.best_logits)
        return score

    def _near_the_top(self, at: Slope) -> Tensor:  # [b] bool
        """Whether too little is in reach from here to go on; see `engine.headroom`."""
        rows, tolerance = self.rows, self.climb.tolerance
        within = reach(rows.point, at.gradient, self.ball, rows.index)
        # Compared with the point's own value, which has rounded as what is attainable from it.
        near = attainable(at.value, within) <= at.value.exp() + SHARE * tolerance
        if rows.floor is not None:
            near |= attainable(at.value, within, SAFETY) <= rows.floor + tolerance
        return near

    def _record(self, which: Tensor) -> None:  # [b] bool
        """Write what these rows found to where their results belong."""
        rows = self.rows
        assert rows.best_logits is not None
        if self.logits is None:
            self.logits = rows.best_logits.new_empty((len(self.point), rows.best_logits.shape[1]))
        home = rows.id[which]
        self.point[home] = rows.best[which]
        self.value[home] = rows.best_value[which]
        self.logits[home] = rows.best_logits[which]
        self.steps[home] = self.taken
