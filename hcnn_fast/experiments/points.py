"""Which images of a data set are attacked, and which are kept for thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments.attempts import IMAGES, logits_of
from hcnn_fast.experiments.experiment import Experiment, Subject
from hcnn_fast.experiments.settings import Settings

HELD_OUT = 1000  # at most, and no more than half of the data


@dataclass(frozen=True)
class Division:
    """A data set in random order, parted once and for all by the seed.

    Attributes:
        attacked: [P] int64, places in the data set of the points that may be attacked, in order.
        held_out: [H] int64, of those that no attack sees.
    """

    attacked: Tensor
    held_out: Tensor


def divide(data: ImageDataset, seed: int) -> Division:
    """All images in an order that depends on the seed alone; the last ones are held out."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))  # [N]
    first_held = len(data) - min(HELD_OUT, len(data) // 2)
    return Division(order[:first_held], order[first_held:])


def pixels(data: ImageDataset, example: Tensor, subject: Subject) -> tuple[Tensor, Tensor]:
    """Images [n, *image] in [0, 1] and classes [n] on the model's device."""
    device = next((p.device for p in subject.model.parameters()), torch.device("cpu"))
    x = data.images[example].to(device, torch.float32) / 255.0
    return x, data.labels[example].to(device)


def choose_points(
    experiment: Experiment,
    data: ImageDataset,
    subject: Subject,
    settings: Settings,
) -> Tensor:  # [points] int64
    """The first points of the random order, or the first of them that the model gets right.

    Raises:
        ValueError: there are not so many.
    """
    pool = divide(data, settings.seed).attacked  # [P]
    chosen = [pool]
    if experiment.right_only:
        chosen, found = [], 0
        for part in torch.split(pool, IMAGES):
            x, y = pixels(data, part, subject)
            right = part[(logits_of(subject.model, x).argmax(1) == y).cpu()]  # [r]
            chosen.append(right)
            found += len(right)
            if found >= settings.points:
                break
    points = torch.cat(chosen)[: settings.points]
    if len(points) < settings.points:
        kind = f"that {subject.name} gets right " if experiment.right_only else ""
        raise ValueError(
            f"points is {settings.points}, and {data.name} has {len(points)} {kind}besides the"
            " held-out ones"
        )
    return points
