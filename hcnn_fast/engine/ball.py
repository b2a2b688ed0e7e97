"""What is searched, and by which candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from hcnn_fast import reference
from hcnn_fast.config import Norm


@dataclass(frozen=True, kw_only=True)
class Ball:
    """The set searched around each image, and the operations' implementation.

    Attributes:
        image: [N, *image] the centres.
        radius: l_inf radius, in input units.
        bounds: lowest and highest input value.
        backend: a backend name that `backends.resolve` returned.
    """

    image: Tensor  # [N, *image]
    radius: float
    bounds: tuple[float, float]
    backend: str


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Runs that start together: candidate b climbs for label[b] in the ball of image index[b]."""

    index: Tensor  # [B] int64
    label: Tensor  # [B] int64
    point: Tensor  # [B, *image]
    pace: Tensor | None = None  # [B] what the lengths of its steps are multiplied by

    def __len__(self) -> int:
        return len(self.index)

    def at(self, point: Tensor) -> Candidates:  # [B, *image]
        """The same candidates at other points."""
        return replace(self, point=point)

    def rows(self, which: slice | Tensor) -> Candidates:  # or [b] int64
        """Some of the candidates."""
        return Candidates(
            index=self.index[which],
            label=self.label[which],
            point=self.point[which],
            pace=None if self.pace is None else self.pace[which],
        )


def distance(
    point: Tensor,  # [B, *image]
    ball: Ball,
    index: Tensor,  # [B] int64
    norm: Norm,
) -> Tensor:  # [B]
    """|z - x| of every candidate."""
    return reference.norm_of(point - ball.image[index], norm)
