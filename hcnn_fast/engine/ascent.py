"""Projected gradient ascent of many candidates at once: the loop under search and attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.captured_passes import CapturedPasses
from hcnn_fast.engine.captured_steps import CapturedStep
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.late_flags import LateFlags
from hcnn_fast.engine.rows import Rows, step
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
        forward: gives the logits; where it captures its passes, whole steps are captured too.
        candidates: where the runs start.
        ball: what they may not leave.
        climb: what they climb.
        first: the slope of the objective where the first of the runs start, as far as it is known.
        floor: [B] probabilities; a run that cannot pass its own by more than the tolerance ends.
    """
    run = _Run(forward, Rows.of(candidates, ball, climb, floor), ball, climb)
    for t in range(len(climb.step_sizes)):
        run.step(run.completed(first) if t == 0 and first is not None else None)
        if not run.goes_on():
            break
    return run.finish()


class _Run:
    """Rows that climb together. Those that have ended leave the batch when it pays.

    Which row is whose, and which still climb, the host keeps: what a device works on it need not
    wait for.
    """

    def __init__(self, forward: Forward, rows: Rows, ball: Ball, climb: Climb) -> None:
        self.forward, self.rows, self.ball, self.climb = forward, rows, ball, climb
        self.id = torch.arange(len(rows), device="cpu")  # where each row's result belongs
        # A run that has ended may stay in the batch for a while.
        self.climbing = torch.ones(len(rows), dtype=torch.bool, device="cpu")
        self.gathered = 0.0  # sum of the weights of the gradients in the momentum buffer
        self.taken = 0  # steps
        self.flags = LateFlags(rows.point.device)
        self.captured: CapturedStep | None = None  # what the rows lie in, if they do
        self.captures = forward.steps if isinstance(forward, CapturedPasses) else None
        self.unasked = True  # whether a step is captured for a batch of this size
        self.near: Tensor | None = None  # [b] bool, rows with too little in reach
        self.fewest = len(rows)  # the smallest batch so far, or the last that was refused
        self.staying: Tensor | None = None  # [c] int64, rows of a smaller batch to be tried
        self.point = torch.empty_like(rows.point)
        self.value = torch.empty_like(rows.best_value)
        self.logits: Tensor | None = None
        self.steps = torch.empty_like(rows.index)
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
        if at is None and self.staying is not None:
            at = self._without_others(self.staying, self._slope(self.rows.point, self.rows.label))
            self.staying = None
        captured = self._captured() if at is None else None
        self.gathered = self.climb.momentum * self.gathered + 1.0
        self.rows.set_lengths(self.climb, self.taken, self.gathered)
        if captured is not None:
            self.near = captured()
            self.forwards += len(self.rows)
            self.backwards += len(self.rows)
        else:
            if at is None:
                at = self._slope(self.rows.point, self.rows.label)
            self.near = step(self.rows, at, self.ball, self.climb)
        self.taken += 1

    def _captured(self) -> CapturedStep | None:
        """The captured step that the rows lie in, or are laid into: looked for once a batch."""
        if self.captures is not None and self.unasked:
            left = len(self.climb.step_sizes) - self.taken
            self.captured = self.captures.of(self.rows, self.ball, self.climb, left)
            self.unasked = False
            if self.captured is not None:
                self.rows = self.captured.lay_in(self.rows, self.ball)
        return self.captured

    def goes_on(self) -> bool:
        """Whether a run still climbs; records those that end here, and shrinks the batch."""
        now = self._ended()
        if now is None or not bool(now.any()):
            return True
        self._record(now)
        self.climbing &= ~now
        going = int(self.climbing.sum())
        if 0 < going <= SHRINK_AT * self.fewest:
            staying = self.climbing.nonzero()[:, 0]
            if self.climb.tolerance > 0.0:
                self.fewest = going
                self._shrink(staying)
            elif self.captured is None and self._trial_pays(going):
                self.fewest = going
                self.staying = staying
        return going > 0

    def _ended(self) -> Tensor | None:  # [b] bool, on the host
        """Runs that are known to have ended since the last time; None where nothing is known."""
        motion, ended = self.rows.motion, self.near
        if self.taken % self.flags.every or (motion is None and ended is None):
            return None
        if motion is not None:
            rests = motion != MOVED
            ended = rests if ended is None else ended | rests
        assert ended is not None
        known = self.flags.exchange(ended)
        return None if known is None else known & self.climbing

    def _shrink(self, staying: Tensor) -> None:  # [c] int64
        """Leave the other rows behind."""
        self.rows = self.rows.take(staying.to(self.rows.point.device, non_blocking=True))
        self.id, self.climbing = self.id[staying], self.climbing[staying]
        self.unasked = True
        self.flags.forget()

    def _trial_pays(self, going: int) -> bool:
        """Whether the steps that are left save more rows than the pass that is made twice has."""
        left = len(self.climb.step_sizes) - self.taken
        return (left - 1) * (len(self.rows) - going) > going

    def _without_others(self, staying: Tensor, at: Slope) -> Slope:  # [c] int64
        """The slope of a smaller batch, if no bit of it differs; else the batch stays as it is.

        A library may multiply few rows in another order than many.
        """
        rows, which = self.rows, staying.to(at.value.device, non_blocking=True)
        alone = self._slope(rows.point[which], rows.label[which])
        for name in ("value", "logits", "gradient"):
            if not torch.equal(getattr(alone, name), getattr(at, name)[which]):
                return at
        self._shrink(staying)
        return alone

    def finish(self) -> Ascent:
        """Score the last points of the runs that went to the end, and collect all results."""
        rows, climb = self.rows, self.climb
        if bool(self.climbing.any()):
            with torch.no_grad():
                logits = self.forward(rows.point)
            self.forwards += len(rows)
            value, _ = objective(logits, rows.label, climb.kind, climb.order, self.ball.backend)
            score = rows.note_logits(-value if climb.downhill else value, logits, climb)
            better = score > rows.best_value
            shape = (-1,) + (1,) * (rows.best.ndim - 1)
            rows.best = torch.where(better.view(shape), rows.point, rows.best)
            rows.best_value = torch.where(better, score, rows.best_value)
            self._record(self.climbing)
        assert self.logits is not None, "an ascent has at least one candidate"
        return Ascent(
            point=self.point,
            value=self.value,
            logits=self.logits,
            steps=self.steps,
            forwards=self.forwards,
            backwards=self.backwards,
        )

    def _record(self, which: Tensor) -> None:  # [b] bool
        """Write what these rows found to where their results belong."""
        rows = self.rows
        assert rows.best_logits is not None
        if self.logits is None:
            self.logits = rows.best_logits.new_empty((len(self.point), rows.best_logits.shape[1]))
        device = self.point.device
        row = which.nonzero()[:, 0].to(device, non_blocking=True)
        home = self.id[which].to(device, non_blocking=True)
        self.point[home] = rows.best[row]
        self.value[home] = rows.best_value[row]
        self.logits[home] = rows.best_logits[row]
        self.steps.index_fill_(0, home, self.taken)
