"""What a run climbs and how, and what runs have found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hcnn_fast.config import Norm


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What is climbed and how.

    Attributes:
        kind: an objective of `ops.label_objective`.
        order: order of the entropy.
        step_sizes: length of every step, in input units.
        momentum: factor on the accumulated gradient.
        distance_weight: weight of |z - x| in the moves and in the score of a point.
        norm: norm of the distance.
        downhill: go down the objective instead of up; the score is then its negative.
        tolerance: probability that may be given up to stop early, for kind "log_probability"; 0:
            a run stops only where no further step can change its result.
        share: of the tolerance that may be in reach when a run stops.
        may_stop: whether runs may end early and leave the batch; not where the model is asked for
            as many rows as there are candidates.
    """

    kind: str
    order: float = 1.0
    step_sizes: tuple[float, ...]
    momentum: float = 0.0
    distance_weight: float = 0.0
    norm: Norm = "linf"
    downhill: bool = False
    tolerance: float = 0.0
    share: float = 0.5
    may_stop: bool = True

    @property
    def steady(self) -> bool:
        """Whether all steps have one length: then a point visited again is left the same way."""
        return len(set(self.step_sizes)) == 1

    @property
    def stops_at_rest(self) -> bool:
        """Whether a point that a step left where it was stays there to the end.

        Without momentum a step depends on the point alone; with the step's length it changes only
        how a distance weighs. A shorter step along the same signs is clipped the same way.
        """
        sizes = self.step_sizes
        shrinking = all(b <= a for a, b in itertools.pairwise(sizes))
        rests = self.steady or (shrinking and self.distance_weight == 0.0)
        return self.may_stop and self.momentum == 0.0 and rests


@dataclass(frozen=True)
class Ascent:
    """What B runs found.

    Attributes:
        point: [B, *image] the best point of each run.
        value: [B] its score, objective - distance_weight * |z - x|.
        logits: [B, C] the model there.
        steps: [B] int64, gradient steps of each run.
        forwards, backwards: passes of single candidates through the model.
    """

    point: Tensor
    value: Tensor
    logits: Tensor
    steps: Tensor
    forwards: int
    backwards: int

    @staticmethod
    def cat(parts: Sequence[Ascent]) -> Ascent:
        """The runs of several batches, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Ascent(
            point=torch.cat([part.point for part in parts]),
            value=torch.cat([part.value for part in parts]),
            logits=torch.cat([part.logits for part in parts]),
            steps=torch.cat([part.steps for part in parts]),
            forwards=sum(part.forwards for part in parts),
            backwards=sum(part.backwards for part in parts),
        )

    def highest(self, count: int, runs: int) -> Ascent:
        """The highest runs of each of b candidates, which made `runs` one after the other.

        Returns:
            count * b runs, all candidates' highest first, which has the steps of all.
        """
        if runs == 1:
            return self
        value = self.value.view(runs, -1)
        place = value.topk(count, dim=0).indices  # [count, b]
        rows = (
            place * value.shape[1] + torch.arange(value.shape[1], device=value.device)
        ).flatten()
        steps = self.steps.view(runs, -1).sum(0)
        return replace(
            self,
            point=self.point[rows],
            value=self.value[rows],
            logits=self.logits[rows],
            steps=torch.cat([steps, steps.new_zeros((count - 1) * len(steps))]),
        )

    def best_of(self, runs: int) -> tuple[Ascent, Tensor]:
        """The best of such runs, and the second highest values [b]: -inf where there is but one."""
        best = self.highest(1, runs)
        if runs == 1:
            return best, torch.full_like(best.value, -math.inf)
        return best, self.value.view(runs, -1).topk(2, dim=0).values[1]

    def then(self, second: Ascent) -> Ascent:
        """What a second run from these points found, with the effort of both."""
        return replace(
            second,
            steps=self.steps + second.steps,
            forwards=self.forwards + second.forwards,
            backwards=self.backwards + second.backwards,
        )

    def or_better(self, second: Ascent, rows: Tensor) -> Ascent:  # [b] int64
        """The better of these runs and of b others for some of the same candidates."""
        higher = second.value > self.value[rows]
        chosen = rows[higher]
        return replace(
            self,
            point=self.point.index_copy(0, chosen, second.point[higher]),
            value=self.value.index_copy(0, chosen, second.value[higher]),
            logits=self.logits.index_copy(0, chosen, second.logits[higher]),
            steps=self.steps.index_add(0, rows, second.steps),
            forwards=self.forwards + second.forwards,
            backwards=self.backwards + second.backwards,
        )
