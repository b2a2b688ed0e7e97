"""A row for every image of an input: made chunk by chunk here or on Ray, and written as they come.

What `hcnn-fast defend` and `hcnn-fast attack` have in common.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

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
from hcnn_fast.jobs.inputs import ImageSource, InputOptions, open_input
from hcnn_fast.jobs.work import CHUNK, RowTask, torch_threads
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale import Cluster
from hcnn_fast.scale.row_job import RowJob
from hcnn_fast.scale.stored_rows import run_job


@dataclass(frozen=True, kw_only=True)
class RowRequest:
    """What a command that makes rows was asked for, apart from how its summary is printed."""

    source: str
    model: str
    checkpoint: Path | None
    device: torch.device
    reading: InputOptions
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

    def files(self) -> dict[str, Any]:
        """What went in and out, as plain values."""
        return {
            "input": self.source,
            "model": self.model,
            "output": None if self.output is None else str(self.output),
            "points": None if self.points is None else str(self.points),
        }

    def speed(self, rows: int, seconds: float) -> dict[str, Any]:
        """How long it took, and where, as plain values."""
        return {
            "seconds": seconds,
            "images_per_second": rows / seconds,
            "device": str(self.device),
        }

    def ended(self, text: str, rows: int, seconds: float) -> str:
        """What a run of so many rows came to, in one line for people."""
        text = f"{text}; {seconds:.1f} s, {rows / seconds:.1f} images/s"
        return text if self.output is None else f"{text}; written to {self.output}"


class RowReport(Protocol):
    """What came of a run."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""

    def sentence(self) -> str:
        """One line for people."""


def print_report(report: RowReport, *, json_summary: bool, quiet: bool) -> None:
    """The summary: as JSON on standard output, for people on stderr."""
    if json_summary:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    if not quiet:
        print(report.sentence(), file=sys.stderr)


class RowTally(Protocol):
    """Running counts over rows."""

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count some more rows."""


@dataclass(frozen=True)
class RowRun:
    """A run whose files are open, whose model is loaded and whose input has passed its checks.

    Attributes:
        request: what was asked for.
        rows: where the rows go.
        points: where the points go, or None.
        classifier: the model, on the request's device.
        reading: how the input is read, the model's image shape included.
        source: the images.
    """

    request: RowRequest
    rows: RowFile
    points: PointFile | None
    classifier: LoadedClassifier
    reading: InputOptions
    source: ImageSource

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where the input or the model knows them."""
        return self.source.class_names or self.classifier.class_names

    def write(self, task: RowTask, tally: RowTally, what: str) -> float:
        """Make and write all rows.

        Args:
            task: what makes them.
            tally: counts them.
            what: name of the progress bar.

        Returns:
            Seconds that it took.
        """
        began = time.perf_counter()
        if self.request.cluster is None:
            self._write_here(task, tally, what)
        else:
            self._write_from_cluster(self.request.cluster, task, tally, what)
        return time.perf_counter() - began

    def _write_here(self, task: RowTask, tally: RowTally, what: str) -> None:
        work = task.work(self.request.device)
        if self.points is not None:
            self.points.begin(self.source.shape)
        with progress_bar(what, self.source.count, quiet=self.request.quiet) as advance:
            for chunk in self.source.chunks(CHUNK):
                written, found = work.rows(self.rows.count, chunk)
                with deferred_interrupt():
                    if self.points is not None:
                        self.points.write(found)
                    tally.add(written)
                    self.rows.write(written)
                advance(len(written))

    def _write_from_cluster(
        self, cluster: Cluster, task: RowTask, tally: RowTally, what: str
    ) -> None:
        """The same rows from workers of Ray, joined in the order of the images."""
        request, source = self.request, self.source
        task.model.cpu()
        job = RowJob.over(task, source, request.parts_folder, cluster)
        with progress_bar(what, source.count, quiet=request.quiet) as advance:
            done = run_job(job, cluster, resume=request.resume, advance=advance)
        for written in done.chunks():
            tally.add(written)
            self.rows.write(written)


@contextmanager
def row_run(request: RowRequest, columns: Mapping[str, type]) -> Iterator[RowRun]:
    """Open the files, load the model, check the input; what fails inside is explained in a line.

    Raises:
        WrongUsage: the request cannot be met; found before the work where possible.
        FailedRun: it failed on the way; the message says where the rows until then are.
        Interrupted: Ctrl-C; the same.
    """
    rows = RowFile(request.output, columns)
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
            yield RowRun(request, rows, points, classifier, reading, source)
    except (Exception, KeyboardInterrupt) as error:
        raise _explained(error, rows, total) from error


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
