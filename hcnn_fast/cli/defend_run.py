"""The work behind `hcnn-fast defend`: calibrate, search chunk by chunk, write as it goes."""

from __future__ import annotations

import hashlib
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.cli.classifiers import LoadedClassifier, load_classifier
from hcnn_fast.cli.failures import (
    WRONG_USAGE,
    FailedRun,
    Interrupted,
    WrongUsage,
    describe,
    exit_code,
)
from hcnn_fast.cli.interruption import deferred_interrupt
from hcnn_fast.cli.point_files import PointFile
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.cli.row_files import RowFile
from hcnn_fast.config import SearchConfig
from hcnn_fast.data import ImageDataset
from hcnn_fast.defense import Defense
from hcnn_fast.jobs.inputs import ImageSource, InputOptions, open_dataset, open_input
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import scaled
from hcnn_fast.jobs.rows import COLUMNS, Tally
from hcnn_fast.jobs.work import CHUNK, ChunkWork, torch_threads
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale import Cluster
from hcnn_fast.scale.defend import run_job
from hcnn_fast.scale.defend_job import DefendJob


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


@dataclass(frozen=True)
class DefendRequest:
    """What `hcnn-fast defend` was asked for, apart from how its summary is printed."""

    source: str
    model: str
    checkpoint: Path | None
    device: torch.device
    config: SearchConfig
    reading: InputOptions
    threshold: float | None
    calibration: Calibration | None
    output: Path | None
    points: Path | None
    quiet: bool
    threads: int | None = None  # None: torch's own number, or one for each worker of a cluster
    cluster: Cluster | None = None  # None: in this process
    resume: Resume = "automatic"

    @property
    def parts_folder(self) -> Path:
        """Where a cluster's workers leave their rows: beside the output, with its name."""
        assert self.output is not None
        return self.output.with_suffix(".parts")


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
            "input": request.source,
            "model": request.model,
            "output": None if request.output is None else str(request.output),
            "points": None if request.points is None else str(request.points),
            **self.tally.to_dict(),
            "threshold": self.threshold,
            "calibration_images": self.calibration_images,
            "seconds": self.seconds,
            "images_per_second": self.tally.rows / self.seconds,
            "device": str(request.device),
            "backend": backends.resolve(request.config.backend, request.device.type),
            "config": request.config.to_dict(),
        }

    def sentence(self) -> str:
        """One line for people."""
        rate = self.tally.rows / self.seconds
        text = f"{self.tally.sentence()}; {self.seconds:.1f} s, {rate:.1f} images/s"
        if self.threshold is not None:
            text += f"; threshold {self.threshold:.4g}"
        return text if self.request.output is None else f"{text}; written to {self.request.output}"


def run_defend(request: DefendRequest) -> DefendReport:
    """Write a row for every image of the input.

    Raises:
        WrongUsage: the request cannot be met; found before the work where possible.
        FailedRun: it failed on the way; the message says where the rows until then are.
        Interrupted: Ctrl-C; the same.
    """
    tally = Tally()
    rows = RowFile(request.output, COLUMNS)
    total: int | None = None
    try:
        with ExitStack() as stack:
            stack.enter_context(rows)
            stack.enter_context(torch_threads(request.threads))
            points = None
            if request.points is not None:
                points = stack.enter_context(PointFile(request.points))
            classifier = load_classifier(request.model, request.checkpoint, request.device)
            reading = replace(request.reading, shape=classifier.shape)
            source = open_input(request.source, reading)
            total = source.count
            if source.note and not request.quiet:
                print(f"note: {source.note}", file=sys.stderr)
            defense = Defense(classifier.model, request.config, request.threshold)
            calibration_images = 0
            if request.calibration is not None:
                calibration_images = _calibrate(defense, request, reading, source)
            began = time.perf_counter()
            if request.cluster is None:
                work = ChunkWork(
                    defense, request.device, _class_names(classifier, source), request.model
                )
                _search(request, work, source, rows, points, tally)
            else:
                _search_on_cluster(
                    request, request.cluster, defense, classifier, source, rows, tally
                )
            seconds = time.perf_counter() - began
    except (Exception, KeyboardInterrupt) as error:
        raise _explained(error, rows, total) from error
    return DefendReport(request, defense.threshold, calibration_images, tally, seconds)


def _search(
    request: DefendRequest,
    work: ChunkWork,
    source: ImageSource,
    rows: RowFile,
    points: PointFile | None,
    tally: Tally,
) -> None:
    if points is not None:
        points.begin(source.shape)
    with progress_bar("Searching", source.count, quiet=request.quiet) as advance:
        for chunk in source.chunks(CHUNK):
            written, found = work.rows(rows.count, chunk)
            with deferred_interrupt():
                if points is not None:
                    points.write(found)
                tally.add(written)
                rows.write(written)
            advance(len(written))


def _search_on_cluster(
    request: DefendRequest,
    cluster: Cluster,
    defense: Defense,
    classifier: LoadedClassifier,
    source: ImageSource,
    rows: RowFile,
    tally: Tally,
) -> None:
    """The same rows from workers of Ray, joined in the order of the images."""
    job = DefendJob(
        model=classifier.model.cpu(),
        model_name=request.model,
        class_names=_class_names(classifier, source),
        reader=source.reader,
        parts=RowParts(request.parts_folder.absolute(), source.count, CHUNK),
        config=request.config,
        threshold=defense.threshold,
        device=cluster.device,
        threads=cluster.threads,
    )
    with progress_bar("Searching", source.count, quiet=request.quiet) as advance:
        done = run_job(job, cluster, resume=request.resume, advance=advance)
    for written in done.chunks():
        tally.add(written)
        rows.write(written)


def _class_names(classifier: LoadedClassifier, source: ImageSource) -> tuple[str, ...] | None:
    return source.class_names or classifier.class_names


def _calibrate(
    defense: Defense, request: DefendRequest, reading: InputOptions, source: ImageSource
) -> int:
    """Set the threshold; returns how many images it rests on."""
    calibration = request.calibration
    assert calibration is not None
    dataset = open_dataset(calibration.dataset, replace(reading, shape=source.shape))
    fresh = _not_in(dataset, source.dataset)[-calibration.limit :]  # [K] index
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


def _explained(error: BaseException, rows: RowFile, total: int | None) -> Exception:
    """The error with what is left of the work, and the same exit code."""
    of_all = "" if total is None else f" of {total}"
    if rows.kept is not None:
        kept = f"{rows.count}{of_all} rows are in {rows.kept}"
    else:
        kept = f"after {rows.count}{of_all} rows"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted; {kept}")
    message = describe(error) if rows.count == 0 else f"{describe(error)}; {kept}"
    return (WrongUsage if exit_code(error) == WRONG_USAGE else FailedRun)(message)
