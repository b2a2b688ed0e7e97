"""The runs that a problem asks for: one, two, or a second opinion."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.nearest import approach
from hcnn_fast.engine.slopes import Slope


class Climber:
    """Runs candidates through a prepared model as a problem asks for (see `hcnn_fast.search`).

    Args:
        model: gives the logits.
        config: the problem.

    Attributes:
        first: what the first run climbs and how.
    """

    def __init__(self, model: PreparedModel, config: SearchConfig) -> None:
        self.model = model
        self.config = config
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
            candidates: B runs.
            ball: what they may not leave.
            first: the slope of the first run's objective where they start, if it is known.
            floor: probabilities that they must be able to pass to go on.
        """
        found = ascend(self.model.fast, candidates, ball, self.first, first=first, floor=floor)
        if self.first.tolerance > 0.0:
            found = self._with_second_opinion(found, candidates, ball, first)
        second = self._second_run(candidates.at(found.point), ball)
        found = found if second is None else found.then(second)
        if not self.model.lowered:
            return found
        with torch.no_grad():
            logits = self.model.exact(found.point)
        return replace(found, logits=logits, forwards=found.forwards + len(logits))

    def _second_run(self, candidates: Candidates, ball: Ball) -> Ascent | None:
        """From the most confident point: towards the image, or weighed against the distance."""
        config = self.config
        if config.confidence is not None:
            return approach(
                self.model.exact,
                candidates,
                ball,
                confidence=config.confidence,
                steps=config.steps,
                norm=config.distance_norm,
            )
        if config.distance_weight == 0.0:
            return None
        climb = Climb(
            kind="probability",
            step_sizes=config.step_sizes(second_run=True),
            momentum=config.momentum,
            distance_weight=config.distance_weight,
            norm=config.distance_norm,
        )
        return ascend(self.model.fast, candidates, ball, climb)

    def _with_second_opinion(
        self,
        found: Ascent,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
    ) -> Ascent:
        """Repeat the runs that used all their steps with steps of half the length.

        Where a network bends, another way up may end on a higher top. The runs that a tolerance
        has cut short pay for it.
        """
        late = (found.steps == self.config.steps).nonzero()[:, 0]
        if not len(late):
            return found
        halved = replace(self.first, step_sizes=tuple(0.5 * s for s in self.first.step_sizes))
        second = ascend(
            self.model.fast,
            candidates.rows(late),
            ball,
            halved,
            first=None if first is None else first.rows(late),
            floor=found.value[late].exp(),
        )
        return found.or_better(second, late)
