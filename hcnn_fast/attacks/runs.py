"""What gradient attacks share: checked input, runs in batches, exact scores, the best run kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hcnn_fast import backends, ops
from hcnn_fast.attacks.losses import LOSSES, LossName, rise_of
from hcnn_fast.attacks.norm_balls import BallNorm, Region, size_of
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball
from hcnn_fast.engine.inputs import (
    Classifier,
    check_finite,
    check_images,
    check_labels,
    check_model,
)
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel, resolve_precision

Choice = Literal["first_success", "best_success", "nearest_success", "best"]

# Points of so many batches are held at once: enough that few batches are left half empty.
BATCHES_HELD = 4


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
        content: [N] int64, hash of every image.
        batch: runs that pass the model at once.
    """

    image: Tensor
    label: Tensor
    model: PreparedModel
    config: SearchConfig
    backend: str
    content: Tensor
    batch: int

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
            prepared = PreparedModel(checked, resolve_precision(config.precision, image), one)
            backend = backends.resolve(config.backend, image.device.type)
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
                content=ops.content_hash(image, backend=backend),
                batch=batch,
            )


def solve(
    problem: Problem,
    climb: Callable[[Runs], tuple[Tensor, int]],
    *,
    loss: LossName,
    targets: Tensor,  # [N, L] int64
    starts: int,
    choice: Choice,
    least: float | None = None,
) -> AttackResult:
    """Run `climb` from every start for every target of every image and keep each image's best.

    Args:
        problem: what is attacked.
        climb: maps runs to their points [B, *image] and the gradient steps spent on them.
        loss: what a point is worth, computed by the exact model.
        targets: classes that the runs of an image are for.
        starts: runs for each of them.
        choice: "first_success", or else the largest value; "best_success", the largest value among
            the successes, or else of all; "nearest_success", the success of the least l_inf
            distance, or else the largest value; "best", the largest value.
        least: rise from which on a point is a success; None: a wrong prediction is one.

    Raises:
        ValueError: the model's logits are not finite.
        RuntimeError: memory does not suffice for one run.
    """
    image = problem.image
    count = targets.shape[1] * starts
    held = max(1, BATCHES_HELD * problem.batch // max(count, 1))  # images at a time
    kept: list[_Scored] = []
    attempts: list[Tensor] = []
    spent, batch = 0, problem.batch
    for low in range(0, max(len(image), 1), held):  # no image: one empty part
        part = slice(low, min(low + held, len(image)))
        scored, steps, batch = _scored(
            problem, _runs(problem, targets, starts, part), climb, loss, least, batch
        )
        attempt = _chosen(scored, count, choice)  # [n]
        kept.append(scored.rows(attempt + count * torch.arange(len(attempt), device=image.device)))
        attempts.append(attempt)
        spent += steps
    return AttackResult(
        point=torch.cat([part.point for part in kept]),
        value=LOSSES[loss].value(torch.cat([part.rise for part in kept])).float(),
        success=torch.cat([part.hit for part in kept]),
        confidence=torch.cat([part.confidence for part in kept]).float(),
        attempt=torch.cat(attempts),
        gradient_steps=spent,
    )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What runs found, by the exact model."""

    point: Tensor  # [B, *image]
    rise: Tensor  # [B]
    hit: Tensor  # [B] bool
    confidence: Tensor  # [B]
    distance: Tensor  # [B] from the image, l_inf

    def rows(self, row: Tensor) -> _Scored:
        return _Scored(
            point=self.point[row],
            rise=self.rise[row],
            hit=self.hit[row],
            confidence=self.confidence[row],
            distance=self.distance[row],
        )


def _scored(
    problem: Problem,
    runs: Runs,
    climb: Callable[[Runs], tuple[Tensor, int]],
    loss: LossName,
    least: float | None,
    batch: int,
) -> tuple[_Scored, int, int]:
    """What these runs find, the gradient steps spent, and the batch that memory sufficed for."""
    point = problem.image.new_empty((len(runs), *problem.image.shape[1:]))
    rise, confidence = point.new_empty(len(runs)), point.new_empty(len(runs))
    distance, hit = torch.empty_like(rise), torch.empty_like(runs.index, dtype=torch.bool)
    spent = 0

    def run(begin: int, end: int) -> None:
        nonlocal spent
        rows = slice(begin, end)
        some = runs.rows(rows)
        point[rows], steps = climb(some)
        with torch.no_grad():
            logits = check_finite(problem.model.exact(point[rows]))
        rise[rows] = rise_of(LOSSES[loss], logits, some.label, some.target)
        hit[rows] = logits.argmax(1) != some.label if least is None else rise[rows] >= least
        confidence[rows] = torch.softmax(logits, 1).amax(1)
        distance[rows] = size_of(point[rows] - problem.image[some.index], "linf")
        spent += steps

    batch = in_batches(len(runs), batch, run)
    found = _Scored(point=point, rise=rise, hit=hit, confidence=confidence, distance=distance)
    return found, spent, batch


def _runs(
    problem: Problem,
    targets: Tensor,  # [N, L]
    starts: int,
    part: slice,
) -> Runs:
    """Every run of some images."""
    images = torch.arange(len(problem.image), device=problem.image.device)[part]
    count = targets.shape[1] * starts
    start = torch.arange(starts, device=images.device)
    return Runs(
        index=images.repeat_interleave(count),
        label=problem.label[part].repeat_interleave(count),
        target=targets[part].repeat_interleave(starts, dim=1).flatten(),
        start=start.repeat(len(images) * targets.shape[1]),
    )


def _chosen(
    scored: _Scored,  # of n images, `count` runs each
    count: int,
    choice: Choice,
) -> Tensor:  # [n] int64, the first of equals
    """Which attempt of each image is kept."""
    rise, hit = scored.rise.view(-1, count), scored.hit.view(-1, count)  # [n, count]
    if choice == "first_success":
        return torch.where(hit, torch.inf, rise).argmax(1)
    if choice != "best":
        among = -scored.distance.view(-1, count) if choice == "nearest_success" else rise
        rise = torch.where(hit.any(1, keepdim=True), among.masked_fill(~hit, -torch.inf), rise)
    return rise.argmax(1)
