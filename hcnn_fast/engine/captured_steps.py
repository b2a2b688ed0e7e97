"""Steps of small batches as CUDA graphs: passes, objective, stopping rule and move, one launch."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.graphs import Captures, bucket_of, check_alike, graph_of, noise_around
from hcnn_fast.engine.rows import Rows, step
from hcnn_fast.engine.slopes import Forward, Slope, slope


class CapturedStep:
    """A step of rows that lie in memory of its own.

    Args:
        forward: gives logits [B, C].
        ball: its image is the centre of each row's ball, [size, *image], and will be overwritten.
        climb: what is climbed; the lengths of steps are read from the rows.
        rows: memory of a whole batch, [size, ...], whose logits are there.
    """

    def __init__(self, forward: Forward, ball: Ball, climb: Climb, rows: Rows) -> None:
        self._forward, self._ball, self._climb, self._rows = forward, ball, climb, rows
        self._slope: Slope | None = None  # of the last step, in memory that each one overwrites
        self._near: Tensor | None = None
        if climb.tolerance > 0.0:
            self._near = torch.zeros(len(rows), dtype=torch.bool, device=rows.point.device)
        self._used = len(rows)
        self._replay = graph_of(self._work, rows.point.device)

    def _work(self) -> None:
        rows, ball, climb = self._rows, self._ball, self._climb
        at = slope(self._forward, rows.point, rows.label, climb.kind, climb.order, ball.backend)
        near = step(rows, at, ball, climb)
        if near is not None:
            assert self._near is not None
            self._near.copy_(near)
        self._slope = at

    def lay_in(self, rows: Rows, ball: Ball) -> Rows:
        """The same rows in memory that the step works on, until others are laid in.

        Args:
            rows: at most as many as there is memory for; the rest is filled with what lay there.
            ball: what they may not leave; of this step's radius, bounds and backend.
        """
        self._used = len(rows)
        self._ball.image[: self._used] = ball.image[rows.index]
        laid = self._rows.map(lambda tensor: tensor[: self._used])
        laid.copy_(replace(rows, index=laid.index))  # each has a ball of its own here
        if rows.best_logits is None:
            assert laid.best_logits is not None
            laid.best_logits.fill_(math.nan)  # those of a point that never got a value
        return replace(laid, index=rows.index)

    def __call__(self) -> Tensor | None:  # [b] bool
        """One step of the rows that were laid in; which of them have too little in reach."""
        self._replay()
        return None if self._near is None else self._near[: self._used]

    def check(self, points: Tensor) -> None:  # [size, *image]
        """Compare a replay from some points with a step that is made as ever.

        Moves go by the signs of gradients, which may be nearly 0; all else is compared.

        Raises:
            RuntimeError: they differ.
        """
        rows, ball, climb = self._rows, self._ball, self._climb
        rows.point.copy_(points)
        rows.best_value.fill_(-math.inf)
        other = rows.map(torch.Tensor.clone)
        at = slope(self._forward, other.point, other.label, climb.kind, climb.order, ball.backend)
        step(other, at, ball, climb)
        self._replay()
        assert self._slope is not None
        for name in ("value", "gradient", "logits"):
            check_alike(getattr(self._slope, name), getattr(at, name))
        for found, expected in (
            (rows.best, other.best),
            (rows.best_value, other.best_value),
            (rows.best_logits, other.best_logits),
            (rows.buffer, other.buffer),
            (rows.reach, other.reach),
        ):
            if found is not None and expected is not None:
                check_alike(found, expected)


class CapturedSteps:
    """Steps that are captured once for each of a few batch sizes, and for each kind of ascent.

    The rows of a batch are laid into the memory that the graph works on, and stay there until some
    of them leave. Batches are filled up, and captured when they have come up often, as the passes
    of `CapturedPasses` are.

    Args:
        forward: gives logits [B, C]; each row of them depends on its own image alone.
        image: an image of the kind that will pass, on the device.
        most: rows of all batches together.

    Attributes:
        captures: the steps.
    """

    def __init__(
        self,
        forward: Forward,
        image: Tensor,  # [1, *image]
        most: int,
    ) -> None:
        self._forward, self._image, self._most = forward, image, most
        self.captures: Captures[CapturedStep] = Captures(image.device, "steps")

    def of(self, rows: Rows, ball: Ball, climb: Climb, left: int) -> CapturedStep | None:
        """A step for as many rows that climb so; None where none is captured, or not yet.

        Args:
            rows: a batch, whose memory is left alone.
            ball: what they may not leave.
            climb: what they climb.
            left: steps that they have before them.
        """
        size = bucket_of(len(rows))
        kind = replace(climb, step_sizes=())
        key = (size, kind, ball.radius, ball.bounds, ball.backend, rows.layout)
        return self.captures.get(
            key, size, self._most, lambda: self._capture(size, rows, ball, kind), uses=left
        )

    def _capture(self, size: int, like: Rows, ball: Ball, climb: Climb) -> CapturedStep:
        """A step of so many rows.

        Raises:
            Exception: whatever the capture fails with, or a replay that answers otherwise.
        """

        def room(tensor: Tensor) -> Tensor:
            shape = (size, *tensor.shape[1:])
            stride = (tensor.shape[1:].numel(), *tensor.stride()[1:])
            return tensor.new_empty_strided(shape, stride).zero_()

        rows = like.map(room)
        rows.index = torch.arange(size, device=like.index.device)
        with torch.no_grad():
            rows.best_logits = self._forward(rows.point).clone()
        rows.label.copy_(rows.index % rows.best_logits.shape[1])
        centre = room(ball.image)
        captured = CapturedStep(self._forward, replace(ball, image=centre), climb, rows)
        for points in noise_around(self._image, size):
            captured.check(points)
        return captured
