"""What gradient attacks are posed as: checked input, a prepared model, and runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hcnn_fast import backends, ops
from hcnn_fast.attacks.losses import LOSSES, LossName
from hcnn_fast.attacks.norm_balls import BallNorm, Region
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.free_memory import freed_memory_kept
from hcnn_fast.engine.inputs import (
    Classifier,
    check_finite,
    check_images,
    check_labels,
    check_model,
)
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel, resolve_precision
from hcnn_fast.engine.preparation import prepared_model


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Climbs that go together, by image, then target, then start.

    Attributes:
        index: [B] int64, the image that run b starts from.
        label: [B] int64, the class to be lost.
        target: [B] int64, the class to be gained; the label where any other will do.
        start: [B] int64, which of the starts it is, from 0.
    """

    index: Tensor
    label: Tensor
    target: Tensor
    start: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, chosen: slice | Tensor) -> Runs:
        """Some of the runs, by slice, index or mask."""
        return Runs(
            index=self.index[chosen],
            label=self.label[chosen],
            target=self.target[chosen],
            start=self.start[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A checked attack: images, their classes, the prepared model and the settings.

    Attributes:
        image: [N, *image], clipped to the bounds.
        label: [N] int64, the classes to be lost.
        model: the model, prepared.
        config: radius, bounds, seed, steps and the like.
        backend: a backend name that `backends.resolve` returned.
        batch: runs that pass the model at once.
    """

    image: Tensor
    label: Tensor
    model: PreparedModel
    config: SearchConfig
    backend: str
    batch: int

    @cached_property
    def content(self) -> Tensor:  # [N] int64
        """Hash of every image, for those attacks that draw from it."""
        return ops.content_hash(self.image, backend=self.backend)

    @property
    def classes(self) -> int:
        """How many classes the model has."""
        return self.model.classes

    @property
    def ball(self) -> Ball:
        """The l_inf ball of every image, for the engine."""
        return Ball(
            image=self.image,
            radius=self.config.radius,
            bounds=self.config.bounds,
            backend=self.backend,
        )

    def region(self, runs: Runs, norm: BallNorm = "linf") -> Region:
        """Ball and bounds around the image of every run, to be projected onto."""
        return Region(
            self.image[runs.index],
            radius=self.config.radius,
            norm=norm,
            bounds=self.config.bounds,
        )

    def every_run(
        self,
        targets: Tensor,  # [N, L]
        starts: int,
        part: slice,
    ) -> Runs:
        """Every run of some images: `starts` for each of their targets."""
        images = torch.arange(len(self.image), device=self.image.device)[part]
        count = targets.shape[1] * starts
        start = torch.arange(starts, device=images.device)
        return Runs(
            index=images.repeat_interleave(count),
            label=self.label[part].repeat_interleave(count),
            target=targets[part].repeat_interleave(starts, dim=1).flatten(),
            start=start.repeat(len(images) * targets.shape[1]),
        )

    def uniform_points(self, runs: Runs, *, first: int = 1) -> Tensor:  # [B, *image]
        """Points uniform in l_inf ball and bounds; start `first` - 1 would be the image itself."""
        return ops.random_starts(
            self.image,
            self.content,
            runs.index,
            runs.target,
            runs.start + first,
            seed=self.config.seed,
            radius=self.config.radius,
            bounds=self.config.bounds,
            backend=self.backend,
        )

    def wrong_targets(self, count: int | None = None) -> Tensor:  # [N, L] int64
        """The wrong classes of every image in order, or the `count` likeliest of them first.

        Raises:
            ValueError: fewer than `count` wrong classes.
        """
        wrong = self.classes - 1
        if count is None:
            place = torch.arange(wrong, device=self.label.device)
            return place + (place >= self.label[:, None]).long()
        if count > wrong:
            raise ValueError(f"targets is {count}, expected at most the {wrong} wrong classes")
        logits = self.image.new_empty((len(self.image), self.classes))

        def run(begin: int, end: int) -> None:
            with torch.no_grad():
                logits[begin:end] = check_finite(self.model.exact(self.image[begin:end]))

        in_batches(len(self.image), self.batch, run)
        others = logits.scatter(1, self.label[:, None], -torch.inf)
        return others.argsort(dim=1, descending=True, stable=True)[:, :count]


@contextlib.contextmanager
def posed(
    model: Classifier,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    config: SearchConfig,
    *losses: LossName,
) -> Iterator[Problem]:
    """Check and prepare an attack; inside, gradients are on and nothing casts by itself.

    Raises:
        TypeError, ValueError: an argument is not usable, or a loss needs more classes.
        RuntimeError: the chosen backend cannot run.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image = check_images(x, config)
        label = check_labels(y, image)
        with torch.autocast(image.device.type, enabled=False):  # precision is an argument
            checked = check_model(model, image)
            black = image.new_zeros((1, *image.shape[1:])).clamp_(*config.bounds)
            one = image[:1] if len(image) else black  # without images there are classes still
            precision = resolve_precision(config.precision, image)
            backend = backends.resolve(config.backend, image.device.type)
            prepare = prepared_model(checked, precision, one, backend)
            with freed_memory_kept(), prepare as prepared:
                classes = prepared.classes
                label = check_labels(label, image, classes)
                for name in losses:
                    if classes < LOSSES[name].classes:
                        raise ValueError(
                            f"objective is {name!r} and the model has {classes} classes, "
                            f"expected at least {LOSSES[name].classes}"
                        )
                planned = config.batch_size is None and len(image)
                batch = prepared.planned_batch if planned else config.batch_size or 1
                yield Problem(
                    image=image,
                    label=label,
                    model=prepared,
                    config=config,
                    backend=backend,
                    batch=batch,
                )
