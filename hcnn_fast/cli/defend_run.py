"""The work behind `hcnn-fast defend`: calibrate, search chunk by chunk, write as it goes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.cli.row_run import RowRequest, RowRun, row_run
from hcnn_fast.config import SearchConfig
from hcnn_fast.data import ImageDataset
from hcnn_fast.defense import Defense
from hcnn_fast.jobs.defend_work import DefendTask
from hcnn_fast.jobs.inputs import open_dataset
from hcnn_fast.jobs.readers import scaled
from hcnn_fast.jobs.rows import COLUMNS, Tally


@dataclass(frozen=True)
class Calibration:
    """Where the threshold comes from.

    Attributes:
        dataset: NAME:SPLIT.
        limit: use the last so many of its images that are not in the input.
        tpr: share of the correctly classified ones that stays accepted.
    """

    dataset: str
    limit: int
    tpr: float


@dataclass(frozen=True, kw_only=True)
class DefendRequest(RowRequest):
    """What `hcnn-fast defend` was asked for, apart from how its summary is printed."""

    config: SearchConfig
    threshold: float | None
    calibration: Calibration | None


@dataclass(frozen=True)
class DefendReport:
    """What came of it."""

    request: DefendRequest
    threshold: float | None
    calibration_images: int
    tally: Tally
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        request = self.request
        return {
            **request.files(),
            **self.tally.to_dict(),
            "threshold": self.threshold,
            "calibration_images": self.calibration_images,
            **request.speed(self.tally.rows, self.seconds),
            "backend": backends.resolve(request.config.backend, request.device.type),
            "config": request.config.to_dict(),
        }

    def sentence(self) -> str:
        """One line for people."""
        text = self.tally.sentence()
        if self.threshold is not None:
            text += f"; threshold {self.threshold:.4g}"
        return self.request.ended(text, self.tally.rows, self.seconds)


def run_defend(request: DefendRequest) -> DefendReport:
    """Write a row for every image of the input.

    Raises:
        WrongUsage: the request cannot be met; found before the work where possible.
        FailedRun: it failed on the way; the message says where the rows until then are.
        Interrupted: Ctrl-C; the same.
    """
    tally = Tally()
    with row_run(request, COLUMNS) as run:
        defense = Defense(run.classifier.model, request.config, request.threshold)
        calibration_images = 0
        if request.calibration is not None:
            calibration_images = _calibrate(defense, request, request.calibration, run)
        task = DefendTask(
            model=run.classifier.model,
            model_name=request.model,
            class_names=run.class_names,
            config=request.config,
            threshold=defense.threshold,
        )
        seconds = run.write(task, tally, "Searching")
    return DefendReport(request, task.threshold, calibration_images, tally, seconds)


def _calibrate(
    defense: Defense, request: DefendRequest, calibration: Calibration, run: RowRun
) -> int:
    """Set the threshold; returns how many images it rests on."""
    reading = replace(run.reading, shape=run.source.shape)
    dataset = open_dataset(calibration.dataset, reading)
    fresh = _not_in(dataset, run.source.dataset)[-calibration.limit :]  # [K] index
    if not len(fresh):
        raise WrongUsage(
            f"every image of {calibration.dataset} is in the input {request.source};"
            " calibrate on others, or --limit the input"
        )
    images = scaled(dataset.images[fresh], request.config.bounds).to(request.device)
    labels = dataset.labels[fresh].to(request.device)
    with progress_bar(f"Calibrating on {len(fresh)} images", None, quiet=request.quiet):
        defense.calibrate(images, labels, calibration.tpr)
    return len(fresh)


def _not_in(dataset: ImageDataset, other: ImageDataset | None) -> Tensor:  # [K] int64
    """Indices of the images of `dataset` that `other` does not hold, compared by content."""
    seen = set() if other is None else {_digest(image) for image in other.images}
    kept = [i for i, image in enumerate(dataset.images) if not seen or _digest(image) not in seen]
    return torch.tensor(kept, dtype=torch.int64)


def _digest(image: Tensor) -> bytes:  # image [C, H, W] uint8
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()
