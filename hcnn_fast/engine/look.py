"""The first look at images: their logits, their labels, and the slopes of labels at the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball
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
class Looker:
    """Looks at images for one problem.

    Attributes:
        model: gives the logits.
        config: the problem.
        kind, order: the objective of the first run.
        backend: a backend name that `backends.resolve` returned.
    """

    model: PreparedModel
    config: SearchConfig
    kind: str
    order: float
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
        return self._by_the_label(x, batch, self.config.labels, tried)

    def at_likely_winners(self, x: Tensor, batch: int) -> Look:  # [n, *image]
        """The slopes of the likeliest labels, and of those that could pass them.

        The reach of a label that was not looked at is taken to be at most `UNSEEN` times the larger
        one of the likeliest two.
        """
        tried = self.tried
        if tried <= SEEN:
            return self.at_all_labels(x, batch)
        look = self._by_the_label(x, batch, SEEN, SEEN)
        labels = self._labels(look.logits)  # [n, L]
        row = labels.new_full(labels.shape, -1)
        for j in range(SEEN):  # both in rising order
            place = (labels == look.labels[:, j, None]).int().argmax(1, keepdim=True)
            row.scatter_(1, place, look.row[:, j, None])
        image, label = torch.nonzero(self._could_win(x, look, labels) & (row < 0)).unbind(1)
        parts = [look.slope]

        def run(begin: int, end: int) -> None:
            chosen = labels[image[begin:end], label[begin:end]]
            point = x[image[begin:end]]
            parts.append(slope(self.model.fast, point, chosen, self.kind, self.order, self.backend))

        batch = in_batches(len(image), look.batch, run)
        row[image, label] = torch.arange(len(image), device=x.device) + look.row.numel()
        return Look(
            labels=labels,
            logits=look.logits,
            slope=Slope.cat(parts),
            row=row,
            batch=batch,
            forwards=look.forwards + len(image),
            backwards=look.backwards + len(image),
        )

    def possible(
        self,
        x: Tensor,  # [n, *image]
        look: Look,
        safety: float,
    ) -> Tensor:  # [n, L]
        """F_l that each label could reach in the ball; see `engine.headroom`."""
        ball = self._ball(x)
        image = torch.nonzero(look.row >= 0)[:, 0]  # [R], by image, then label
        rows = look.row[look.row >= 0]
        within = x.new_zeros(look.row.shape)
        within[look.row >= 0] = reach(x[image], look.slope.gradient[rows], ball, image).to(x.dtype)
        assumed = UNSEEN * within.amax(1, keepdim=True)
        within = torch.where(look.row >= 0, within, assumed)
        return attainable(self._log_probability(look.logits, look.labels), within, safety)

    def _could_win(
        self,
        x: Tensor,  # [n, *image]
        look: Look,
        labels: Tensor,  # [n, L]
    ) -> Tensor:  # [n, L] bool
        """Labels that could pass the likeliest, as far as the slopes of the likeliest tell."""
        within = reach(
            x.repeat_interleave(SEEN, 0),
            look.slope.gradient,
            self._ball(x),
            torch.arange(len(x), device=x.device).repeat_interleave(SEEN),
        ).view(-1, SEEN)
        log_probability = self._log_probability(look.logits, labels)
        assumed = UNSEEN * within.amax(1, keepdim=True).expand_as(log_probability)
        least = log_probability.amax(1, keepdim=True).exp()
        if self.config.confidence is not None:
            least = torch.full_like(least, self.config.confidence - self.config.tolerance)
        return attainable(log_probability, assumed, SAFETY) >= least + self.config.tolerance

    def _ball(self, x: Tensor) -> Ball:
        config = self.config
        return Ball(image=x, radius=config.radius, bounds=config.bounds, backend=self.backend)

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
        first = slope(
            self.model.fast, spread, labels.flatten(), self.kind, self.order, self.backend
        )
        return Look(
            labels=labels,
            logits=check_finite(first.logits[::tried]) if logits is None else logits,
            slope=first,
            row=torch.arange(len(spread), device=x.device).view(len(x), tried),
            batch=batch,
            forwards=len(spread) + (0 if logits is None else len(x)),
            backwards=len(spread),
        )

    def _by_the_label(
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
                self.model.fast, images, choose, self.kind, self.order, self.backend
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
