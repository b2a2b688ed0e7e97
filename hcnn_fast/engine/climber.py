"""The runs that a problem asks for: one, two, or other opinions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.nearest import approach
from hcnn_fast.engine.slopes import Slope

# Further runs of a candidate: from which other start (0: its own), and what its steps' lengths are
# times those of the first run.
OPINIONS = ((0, 0.7), (1, 1.0), (2, 2.0), (0, 2.0), (3, 1.0), (0, 3.0))
# Runs that are made anyway, in full precision and in a lower one, where each costs less.
LEAST, LEAST_LOWERED = 3, 4
AGREED = 0.2  # of the tolerance: how near to each other the two highest values then have to be
# Steps in full precision after a run in a lower one, times the radius.
LAST_STEPS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05)

Elsewhere = Callable[[Tensor, int], Tensor]  # rows [b] and a number from 1 on: points [b, *image]


class Climber:
    """Runs candidates through a prepared model as a problem asks for (see `hcnn_fast.search`).

    Args:
        model: gives the logits.
        config: the problem.
        batch: candidates that pass the model at once.

    Attributes:
        first: what the first run climbs and how.
        batch: shrinks when memory fails.
    """

    def __init__(self, model: PreparedModel, config: SearchConfig, batch: int) -> None:
        self.model = model
        self.config = config
        self.batch = batch
        entropy = config.objective == "entropy"
        self.first = Climb(
            kind="negative_entropy" if entropy else "log_probability",
            order=1.0 if config.order is None else config.order,
            step_sizes=config.step_sizes(),
            momentum=config.momentum,
            tolerance=config.tolerance if config.objective in ("mcn", "hcnn") else 0.0,
        )

    def climb(
        self,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None = None,
        floor: Tensor | None = None,  # [B]
        elsewhere: Elsewhere | None = None,
    ) -> Ascent:
        """Best point of each candidate, with its logits in full precision.

        Args:
            candidates: B runs, at least one.
            ball: what they may not leave.
            first: the slope of the first run's objective where they start, if it is known.
            floor: probabilities that they must be able to pass to go on.
            elsewhere: other points that some of them may start from; with a tolerance only.
        """
        found, late = self._run(self.first, candidates, ball, first, floor)
        if elsewhere is not None and self.first.tolerance > 0.0:
            asked = found.value.exp() < 1.0 - self.first.tolerance
            if floor is not None:
                asked &= late | (found.value.exp() > floor)
            found = self._with_other_opinions(found, asked, candidates, ball, first, elsewhere)
        found = self._with_second_run(found, candidates, ball)
        return self._rescored(found) if self.model.lowered else found

    def _run(
        self,
        climb: Climb,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        floor: Tensor | None,  # [B]
    ) -> tuple[Ascent, Tensor]:
        """What a run finds, its last steps in full precision; and whether it made all steps."""

        def run(rows: slice) -> Ascent:
            return ascend(
                self.model.fast,
                candidates.rows(rows),
                ball,
                climb,
                first=None if first is None else first.rows(rows),
                floor=None if floor is None else floor[rows],
            )

        found = self._in_batches(len(candidates), run)
        late = found.steps == len(climb.step_sizes)
        if not self.model.lowered or climb.tolerance == 0.0:
            return found, late
        # Where a gradient is nearly 0, a lower precision gets its sign wrong.
        sizes = tuple(length * self.config.radius for length in LAST_STEPS)
        last = replace(climb, step_sizes=sizes, momentum=0.0)

        def end(rows: slice) -> Ascent:
            return ascend(
                self.model.exact,
                candidates.rows(rows).at(found.point[rows]),
                ball,
                last,
                floor=None if floor is None else floor[rows],
            )

        return found.then(self._in_batches(len(candidates), end)), late

    def _with_other_opinions(
        self,
        found: Ascent,
        asked: Tensor,  # [B] bool
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        elsewhere: Elsewhere,
    ) -> Ascent:
        """Make runs again, some from other starts, until their two highest values agree.

        Where a network bends, another way up may end on a higher top. The highest of several, if it
        was found twice, is believed. The runs that a tolerance has cut short pay for it.
        """
        second = torch.full_like(found.value, -math.inf)
        least = LEAST_LOWERED if self.model.lowered else LEAST
        for runs, (start, factor) in enumerate(OPINIONS, 2):
            rows = asked.nonzero()[:, 0]
            if not len(rows):
                break
            again = candidates.rows(rows)
            if start:
                again = again.at(elsewhere(rows, start))
            sizes = tuple(factor * size for size in self.first.step_sizes)
            known = None if start or first is None else first.rows(rows)
            other, _ = self._run(
                replace(self.first, step_sizes=sizes), again, ball, known, floor=None
            )
            lower = torch.minimum(found.value[rows], other.value)
            second[rows] = torch.maximum(second[rows], lower)
            found = found.or_better(other, rows)
            if runs >= least:
                apart = found.value[rows].exp() - second[rows].exp()
                asked = asked.index_copy(0, rows, apart > AGREED * self.first.tolerance)
        return found

    def _with_second_run(self, found: Ascent, candidates: Candidates, ball: Ball) -> Ascent:
        """From the most confident point: towards the image, or weighed against the distance."""
        config = self.config
        if config.confidence is None and config.distance_weight == 0.0:
            return found
        climb = Climb(
            kind="probability",
            step_sizes=config.step_sizes(second_run=True),
            momentum=config.momentum,
            distance_weight=config.distance_weight,
            norm=config.distance_norm,
        )

        def run(rows: slice) -> Ascent:
            some = candidates.rows(rows).at(found.point[rows])
            if config.confidence is None:
                return ascend(self.model.fast, some, ball, climb)
            return approach(
                self.model.exact,
                some,
                ball,
                confidence=config.confidence,
                steps=config.steps,
                norm=config.distance_norm,
            )

        return found.then(self._in_batches(len(candidates), run))

    def _rescored(self, found: Ascent) -> Ascent:
        """The same points with logits in full precision."""
        logits: list[Tensor] = []

        def run(begin: int, end: int) -> None:
            with torch.no_grad():
                logits.append(self.model.exact(found.point[begin:end]))

        self.batch = in_batches(len(found.point), self.batch, run)
        return replace(found, logits=torch.cat(logits), forwards=found.forwards + len(found.point))

    def _in_batches(self, count: int, run: Callable[[slice], Ascent]) -> Ascent:
        """All of `count` candidates, as many at a time as memory suffices for."""
        parts: list[Ascent] = []
        self.batch = in_batches(
            count, self.batch, lambda begin, end: parts.append(run(slice(begin, end)))
        )
        return Ascent.cat(parts)
