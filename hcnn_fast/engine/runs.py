"""The runs of a block of images, and where they start."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.engine.ball import Ball, Candidates


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Run b climbs for label[b] in the ball of image index[b], from its start[b]-th start.

    Points are made when they are asked for.

    Attributes:
        ball: n images and what is searched around them.
        hashes: [n] int64 of the images' content, so that starts are theirs in any batch.
        index, label, start: [B] int64; start 0 is the image itself, others are random points.
        starts: S, the starts of a label.
        seed: of the random points.
    """

    ball: Ball
    hashes: Tensor
    index: Tensor
    label: Tensor
    start: Tensor
    starts: int
    seed: int

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, which: Tensor) -> Runs:  # [b] int64
        """Some of the runs."""
        return replace(
            self, index=self.index[which], label=self.label[which], start=self.start[which]
        )

    def candidates(self) -> Candidates:
        """The runs before their first step."""
        return Candidates(index=self.index, label=self.label, point=self._points())

    def elsewhere(self, which: Tensor, number: int) -> Tensor:  # [b] int64 -> [b, *image]
        """Random points for some of the runs that no run starts from, others for each number."""
        some = self.rows(which)
        return replace(some, start=some.start + number * self.starts)._points()

    def _points(self) -> Tensor:  # [B, *image]
        return ops.random_starts(
            self.ball.image,
            self.hashes,
            self.index,
            self.label,
            self.start,
            seed=self.seed,
            radius=self.ball.radius,
            bounds=self.ball.bounds,
            backend=self.ball.backend,
        )
