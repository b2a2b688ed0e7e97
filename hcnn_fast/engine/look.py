"""The first look at images: their logits, their labels, and the slopes of labels at the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.headroom import SAFETY, UNSEEN, attainable, reach
from hcnn_fast.engine.inputs import check_finite
from hcnn_fast.engine.memory import in_batches, is_out_of_memory
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.selection import likeliest_labels
from hcnn_fast.engine.slopes import Slope, objective, slope, slopes_of_labels

SEEN = 2  # likeliest labels whose slopes are always computed


@dataclass(frozen=True)
class Look:
    """What is known of n images before any step.

    Attributes:
        labels: [n, L] int64, the labels to try.
        logits: [n, C] the model at the images, in full precision.
        slope: the first run's objective at the images, for R pairs of an image and a label.
        row: [n, L] int64, the pair's row of `slope`; -1 where it was not computed.
        batch: candidates that have passed the model at once.
        forwards, backwards: passes of single images through the model.
    """

    labels: Tensor
    logits: Tensor
    slope: Slope
    row: Tensor
    batch: int
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Prospects:
    """What labels could come to in the ball.

    Attributes:
        log_probability: [n, L] log F_l at the images.
        reach: [n, L] what is within its reach; measured where the label was looked at.
    """

    log_probability: Tensor
    reach: Tensor

    def attainable(self, safety: float) -> Tensor:  # [n, L]
        """F_l that each label could come to; see `engine.headroom`."""
        return attainable(self.log_probability, self.reach, safety)


@dataclass(frozen=True)
class Looker:
    """Looks at images for one problem.

    Attributes:
        model: gives the logits.
        config: the problem.
        climb: what the first run climbs.
        backend: a backend name that `backends.resolve` returned.
    """

    model: PreparedModel
    config: SearchConfig
    climb: Climb
    backend: str

    @property
    def tried(self) -> int:
        """L, the labels tried for each image."""
        if self.config.objective == "entropy":
            return 1
        return self.config.labels or self.model.classes

    def at_all_labels(self, x: Tensor, batch: int) -> Look:  # [n, *image]
        """The slope of every label; few images pass with all labels at once, many by the label."""
        tried = self.tried
        if len(x) * tried <= batch:
            try:
                return self._in_one_pass(x, batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                batch = max(1, len(x) * tried // 2)
        return self.by_the_label(x, batch, self.config.labels, tried)

    def at_likely_winners(
        self,
        x: Tensor,  # [n, *image]
        batch: int,
    ) -> tuple[Look, Prospects]:
        """The slopes of the likeliest labels, and of those that could pass them.

        The reach of a label that was not looked at is taken to be at most `UNSEEN` times the larger
        one of the likeliest two.
        """
        if self.tried <= SEEN:
            look = self.at_all_labels(x, batch)
            image = torch.arange(len(x), device=x.device).repeat_interleave(self.tried)
            within = self._reach(x, look.slope, image).view(look.labels.shape)
            return look, Prospects(self._log_probability(look.logits, look.labels), within)
        look = self.by_the_label(x, batch, SEEN, SEEN)
        labels = self._labels(look.logits)  # [n, L]
        log_probability = self._log_probability(look.logits, labels)  # [n, L]
        image = torch.arange(len(x), device=x.device).repeat_interleave(SEEN)
        seen = self._reach(x, look.slope, image).view(-1, SEEN)
        within = UNSEEN * seen.amax(1, keepdim=True).repeat(1, labels.shape[1])  # [n, L]
        row = labels.new_full(labels.shape, -1)
        for j in range(SEEN):
            place = (labels == look.labels[:, j, None]).int().argmax(1, keepdim=True)
            row.scatter_(1, place, look.row[:, j, None])
            within.scatter_(1, place, seen[:, j, None])
        least = log_probability.amax(1, keepdim=True).exp() + self.config.tolerance
        if self.config.confidence is not None:
            least = torch.full_like(least, self.config.confidence)
        could_win = attainable(log_probability, within, SAFETY) >= least
        image, label = torch.nonzero(could_win & (row < 0)).unbind(1)
        parts = [look.slope]

        def run(begin: int, end: int) -> None:
            some, chosen = image[begin:end], label[begin:end]
            part = self._slope(x[some], labels[some, chosen])
            parts.append(part)
            within[some, chosen] = self._reach(x, part, some)

        batch = in_batches(len(image), look.batch, run)
        row[image, label] = torch.arange(len(image), device=x.device) + look.row.numel()
        further = Look(
            labels=labels,
            logits=look.logits,
            slope=Slope.cat(parts),
            row=row,
            batch=batch,
            forwards=look.forwards + len(image),
            backwards=look.backwards + len(image),
        )
        return further, Prospects(log_probability, within)

    def _slope(self, point: Tensor, label: Tensor) -> Slope:  # [B, *image], [B]
        climb = self.climb
        return slope(self.model.fast, point, label, climb.kind, climb.order, self.backend)

    def _reach(
        self,
        x: Tensor,  # [n, *image]
        at: Slope,  # at R images
        image: Tensor,  # [R] int64
    ) -> Tensor:  # [R]
        config = self.config
        ball = Ball(image=x, radius=config.radius, bounds=config.bounds, backend=self.backend)
        return reach(x[image], at.gradient, ball, image).to(at.value.dtype)

    def _labels(self, logits: Tensor) -> Tensor:  # [n, C] -> [n, L]
        return likeliest_labels(logits, self.config.labels)[:, : self.tried]

    def _log_probability(self, logits: Tensor, labels: Tensor) -> Tensor:  # [n, C], [n, L]
        spread = logits.repeat_interleave(labels.shape[1], 0)
        value, _ = objective(spread, labels.flatten(), "log_probability", 1.0, self.backend)
        return value.view(labels.shape)

    def _exact(self, x: Tensor) -> Tensor:  # [n, *image] -> [n, C]
        with torch.no_grad():
            return check_finite(self.model.exact(x))

    def _in_one_pass(self, x: Tensor, batch: int) -> Look:  # [n, *image]
        tried = self.tried
        logits = self._exact(x) if self.model.lowered or self.config.labels else None
        # With all labels, the choice does not need the logits.
        known = x.new_empty(len(x), self.model.classes) if logits is None else logits
        labels = self._labels(known)
        spread = x.repeat_interleave(tried, 0)
        first = self._slope(spread, labels.flatten())
        return Look(
            labels=labels,
            logits=check_finite(first.logits[::tried]) if logits is None else logits,
            slope=first,
            row=torch.arange(len(spread), device=x.device).view(len(x), tried),
            batch=batch,
            forwards=len(spread) + (0 if logits is None else len(x)),
            backwards=len(spread),
        )

    def by_the_label(
        self,
        x: Tensor,  # [n, *image]
        batch: int,
        count: int | None,
        tried: int,
    ) -> Look:
        """One forward pass for the `count` likeliest labels (None: the first `tried`) of each."""
        parts: list[tuple[Tensor, Tensor, Slope]] = []

        def run(begin: int, end: int) -> None:
            images = x[begin:end]
            logits = self._exact(images) if self.model.lowered else None

            def choose(seen: Tensor) -> Tensor:  # [n, C] -> [n, L]
                return likeliest_labels(seen if logits is None else logits, count)[:, :tried]

            labels, first = slopes_of_labels(
                self.model.plain,
                images,
                choose,
                self.climb.kind,
                self.climb.order,
                self.backend,
            )
            exact = check_finite(first.logits[::tried]) if logits is None else logits
            parts.append((labels, exact, first))

        batch = in_batches(len(x), batch, run)
        labels, logits, slopes = zip(*parts, strict=True)
        return Look(
            labels=torch.cat(labels),
            logits=torch.cat(logits),
            slope=Slope.cat(slopes),
            row=torch.arange(len(x) * tried, device=x.device).view(len(x), tried),
            batch=batch,
            forwards=len(x) * (2 if self.model.lowered else 1),
            backwards=len(x) * tried,
        )
