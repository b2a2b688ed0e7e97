"""The candidates of a batch while they climb, and one step of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.engine.ball import Ball, Candidates, distance
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.headroom import SAFETY, attainable
from hcnn_fast.engine.slopes import Slope


@dataclass
class Rows:
    """The candidates of a batch, with all that a step reads and writes of them."""

    index: Tensor  # [b] int64
    label: Tensor  # [b] int64
    floor: Tensor | None  # [b]
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
    reach: Tensor | None  # [b] of the objective, in the ball

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        ball: Ball,
        climb: Climb,
        floor: Tensor | None,  # [B]
    ) -> Rows:
        """All candidates, before the first step."""
        point = candidates.point.clone()
        best_value = point.new_full((len(point),), -math.inf)
        weighed = climb.distance_weight > 0.0
        rests = climb.stops_at_rest
        return cls(
            index=candidates.index,
            label=candidates.label,
            floor=floor,
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
            reach=torch.empty_like(best_value) if climb.tolerance > 0.0 else None,
        )

    def __len__(self) -> int:
        return len(self.point)

    def take(self, which: Tensor) -> Rows:  # [c] int64
        """Some of the rows, copied."""
        return self.map(lambda tensor: tensor[which])

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """Rows of what the function makes of every tensor."""
        made: dict[str, Any] = {
            name: None if tensor is None else function(tensor) for name, tensor in self._tensors()
        }
        return Rows(**made)

    def copy_(self, rows: Rows) -> None:
        """Overwrite these rows with as many others; what those do not have stays as it is."""
        for (_, own), (_, other) in zip(self._tensors(), rows._tensors(), strict=True):
            if own is not None and other is not None:
                own.copy_(other)

    @property
    def layout(self) -> tuple[object, ...]:
        """What there is of a row before its first pass, and how it lies in memory."""
        return tuple(
            (name, tensor.dtype, tensor.shape[1:], tensor.stride()[1:])
            for name, tensor in self._tensors()
            if tensor is not None and tensor is not self.best_logits
        )

    def _tensors(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def set_lengths(self, climb: Climb, step: int, gathered: float) -> None:
        """How far the next step goes, and what a distance then weighs.

        Args:
            climb: what is climbed and how.
            step: number of the step, from 0 on.
            gathered: sum of the weights of the gradients that the momentum buffer will have.
        """
        size = climb.step_sizes[step]
        self.step_size.fill_(-size if climb.downhill else size)
        if self.pace is not None:
            self.step_size.mul_(self.pace)
        if self.penalty is not None:
            self.penalty.fill_(climb.distance_weight * gathered)

    def note_logits(
        self,
        value: Tensor,  # [b]
        logits: Tensor,  # [b, C]
        climb: Climb,
    ) -> Tensor:  # [b]
        """Keep the logits of the points that are the best so far; returns the points' scores."""
        score = value if self.away is None else value - climb.distance_weight * self.away
        if self.best_logits is None:
            self.best_logits = logits.clone()
        else:
            better = (score > self.best_value)[:, None]
            torch.where(better, logits, self.best_logits, out=self.best_logits)
        return score


def step(rows: Rows, at: Slope, ball: Ball, climb: Climb) -> Tensor | None:  # [b] bool
    """Move all rows along a slope of theirs, as far as their lengths say.

    Nothing here waits for a GPU, so that a CUDA graph can hold it.

    Returns:
        Which rows have too little in reach to go on; None without a tolerance.
    """
    value = -at.value if climb.downhill else at.value
    rows.note_logits(value, at.logits, climb)
    ops.pgd_step_(
        rows.point,
        at.gradient,
        ball.image,
        rows.index,
        rows.step_size,
        radius=ball.radius,
        bounds=ball.bounds,
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
        reach=rows.reach,
        backend=ball.backend,
    )
    return None if rows.reach is None else _too_little(at.value, rows.reach, rows.floor, climb)


def _too_little(
    value: Tensor,  # [b]
    reach: Tensor,  # [b]
    floor: Tensor | None,  # [b]
    climb: Climb,
) -> Tensor:  # [b] bool
    """Whether too little was in reach to go on; see `engine.headroom`."""
    # Compared with the point's own value, which has rounded as what is attainable from it.
    near = attainable(value, reach) <= value.exp() + climb.share * climb.tolerance
    if floor is not None:
        near |= attainable(value, reach, SAFETY) <= floor + climb.tolerance
    return near
