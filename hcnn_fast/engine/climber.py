"""The runs that a problem asks for: one, two, or other opinions."""

from __future__ import annotations

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

# Times the first run's steps, for those that are not done in time. Chosen on the images that
# bench/equal_objective.py reports on; on 2,500 others 0.5 and 2 do as well.
OTHER_LENGTHS = (0.7, 2.0, 3.0)


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
        first: Slope | None,
        floor: Tensor | None,  # [B]
    ) -> Ascent:
        """Best point of each candidate, with its logits in full precision.

        Args:
            candidates: B runs, at least one.
            ball: what they may not leave.
            first: the slope of the first run's objective where they start, if it is known.
            floor: probabilities that they must be able to pass to go on.
        """
        found = self._first_run(self.first, candidates, ball, first, floor)
        if self.first.tolerance > 0.0:
            found = self._with_other_opinions(found, candidates, ball, first)
        found = self._with_second_run(found, candidates, ball)
        return self._rescored(found) if self.model.lowered else found

    def _first_run(
        self,
        climb: Climb,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        floor: Tensor | None,  # [B]
    ) -> Ascent:
        def run(rows: slice) -> Ascent:
            return ascend(
                self.model.fast,
                candidates.rows(rows),
                ball,
                climb,
                first=None if first is None else first.rows(rows),
                floor=None if floor is None else floor[rows],
            )

        return self._in_batches(len(candidates), run)

    def _with_other_opinions(
        self,
        found: Ascent,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
    ) -> Ascent:
        """Repeat the runs that used all their steps with shorter and with longer ones.

        Where a network bends, another way up may end on a higher top. The runs that a tolerance
        has cut short pay for it. One that was done in time is believed.
        """
        late = (found.steps == self.config.steps).nonzero()[:, 0]
        for factor in OTHER_LENGTHS:
            if not len(late):
                break
            sizes = tuple(factor * size for size in self.first.step_sizes)
            other = self._first_run(
                replace(self.first, step_sizes=sizes),
                candidates.rows(late),
                ball,
                None if first is None else first.rows(late),
                found.value[late].exp(),
            )
            found = found.or_better(other, late)
            late = late[other.steps == self.config.steps]
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
