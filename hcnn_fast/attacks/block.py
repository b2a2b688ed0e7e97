"""A block of images under a black-box attack: room, random numbers, and the best point of each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.target import Judgement, Target

STREAMS = 4  # random streams of one start, told apart by what is drawn from them

RowsT = TypeVar("RowsT", bound="Rows")


@dataclass
class Rows:
    """Tensors with one entry per image."""

    def take(self: RowsT, rows: Tensor) -> RowsT:  # rows: [k] int64
        """The entries of some images."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass
class Images(Rows):
    """What is attacked, and where it may be moved to."""

    position: Tensor  # [n] int64, in the block
    x: Tensor  # [n, *image]
    y: Tensor  # [n]
    lower: Tensor  # [n, *image]
    upper: Tensor  # [n, *image]
    content: Tensor  # [n] int64, hash of the image


@dataclass
class Best(Rows):
    """The strongest point of each image: a success before a failure, then the larger value."""

    point: Tensor  # [n, *image]
    value: Tensor  # [n]
    wrong: Tensor  # [n] bool
    confidence: Tensor  # [n]
    attempt: Tensor  # [n] int64

    def improve(self, point: Tensor, judged: Judgement, attempt: int) -> None:
        """Take the point of every image where it is stronger."""
        stronger = (judged.wrong & ~self.wrong) | (
            (judged.wrong == self.wrong) & (judged.value > self.value)
        )
        self.point = torch.where(column(stronger, point), point, self.point)
        self.value = torch.where(stronger, judged.value, self.value)
        self.wrong = torch.where(stronger, judged.wrong, self.wrong)
        self.confidence = torch.where(stronger, judged.confidence, self.confidence)
        self.attempt = self.attempt.masked_fill(stronger, attempt)


def column(values: Tensor, like: Tensor) -> Tensor:  # [n], [n, *image] -> [n, 1, ...]
    """One value per image in a shape that broadcasts over its pixels."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Block:
    """Images that are attacked together, each as if it were alone.

    Args:
        target: the model.
        images: the images; those that have succeeded may leave.
        best: the images themselves, judged.
        seed: seed of the random numbers.
        backend: implementation of the random numbers.
        stop_at_success: whether `drop_successes` takes images out.
        batch_size: points that pass the model at once.
    """

    def __init__(
        self,
        target: Target,
        images: Images,
        best: Best,
        *,
        seed: int,
        backend: str,
        stop_at_success: bool,
        batch_size: int,
    ) -> None:
        self.target = target
        self.images = images
        self.best = best
        self._seed = seed
        self._backend = backend
        self._stop_at_success = stop_at_success
        self._batch_size = batch_size
        self._found = best.take(images.position)

    def __len__(self) -> int:
        return len(self.images.y)

    @property
    def room(self) -> int:
        """How many points of every image pass the model at once, at least 1."""
        return max(1, self._batch_size // len(self))

    def judge(self, point: Tensor, attempt: int) -> Tensor:  # [n, *image] -> [n]
        """The objective at points that are allowed; the best of them are kept."""
        judged = self.target.judge(point, self.images.y, self.best.value)
        self.best.improve(point, judged, attempt)
        return judged.value

    def judge_all(self, points: list[Tensor]) -> None:  # K of [n, *image]
        """Keep the best of several points of every image, the first of equals."""
        several = len(points)
        judged = self.target.judge(
            torch.cat(points), self.images.y.repeat(several), self.best.value.repeat(several)
        )
        for k, point in enumerate(points):
            part = slice(k * len(self), (k + 1) * len(self))
            one = Judgement(judged.value[part], judged.wrong[part], judged.confidence[part])
            self.best.improve(point, one, 0)

    def drop_successes(self) -> Tensor | None:  # [k] int64
        """Take out the images that have been won, if that is asked for.

        Returns:
            The rows that stay, or None where all do.
        """
        if not self._stop_at_success:
            return None
        rows = (~self.best.wrong).nonzero()[:, 0]  # the one place where an attack waits
        if len(rows) == len(self):
            return None
        self._store()
        self.images, self.best = self.images.take(rows), self.best.take(rows)
        return rows

    def _store(self) -> None:
        for f in fields(Best):
            getattr(self._found, f.name)[self.images.position] = getattr(self.best, f.name)

    def found(self) -> Best:
        """The best of all images, in the order in which they came."""
        self._store()
        return self._found

    def clip(self, point: Tensor) -> Tensor:  # [n, *image]
        """The point, moved to where it is allowed."""
        return torch.minimum(torch.maximum(point, self.images.lower), self.images.upper)

    def uniform(self, count: int, *, attempt: int, stream: int, draw: int) -> Tensor:  # [n, count]
        """Numbers in [0, 1) that depend on seed, content of the image, and the three counters."""
        x = self.images.x
        half = torch.full((len(self), count), 0.5, dtype=x.dtype, device=x.device)
        row = torch.arange(len(self), device=x.device)
        return ops.random_starts(  # in the ball of radius 1/2 around 1/2
            half,
            self.images.content,
            row,
            torch.full_like(row, STREAMS * attempt + stream),
            torch.full_like(row, draw + 1),
            seed=self._seed,
            radius=0.5,
            bounds=(0.0, 1.0),
            backend=self._backend,
        )

    def uniform_point(self, *, attempt: int, stream: int, draw: int) -> Tensor:  # [n, *image]
        """A point drawn uniformly from where points are allowed."""
        lower, upper = self.images.lower, self.images.upper
        share = self.uniform(lower[0].numel(), attempt=attempt, stream=stream, draw=draw)
        return self.clip(lower + share.view_as(lower) * (upper - lower))

    def corner(self, up: Tensor) -> Tensor:  # [n, *image] bool -> [n, *image]
        """The corner with the largest values where `up`, the smallest elsewhere."""
        return torch.where(up, self.images.upper, self.images.lower)
