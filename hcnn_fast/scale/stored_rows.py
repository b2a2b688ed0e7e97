"""A job of rows on Ray Data, in a folder that a later run goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hcnn_fast.failures import FailedRun
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.run_folder import Resume, open_run
from hcnn_fast.scale.engine import Cluster, run_parts
from hcnn_fast.scale.fingerprint import fingerprint
from hcnn_fast.scale.row_job import RowJob


@dataclass(frozen=True)
class StoredRows:
    """The rows of a finished job, one per image, in the order of the images.

    Attributes:
        parts: the files of the chunks.
        fingerprint: what decided the rows, as in the folder's `run.json`.
    """

    parts: RowParts
    fingerprint: dict[str, Any]

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.parts.images

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """The rows, a chunk at a time."""
        return iter(self.parts)

    def to_list(self) -> list[dict[str, Any]]:
        """All rows."""
        return [row for rows in self.chunks() for row in rows]


def run_job(
    job: RowJob,
    cluster: Cluster,
    *,
    resume: Resume = "automatic",
    advance: Callable[[int], object] | None = None,
) -> StoredRows:
    """Make what is missing of a job's rows on workers of Ray.

    Args:
        job: the work.
        cluster: workers and where they are.
        resume: "always": the folder must hold a run; "never": it may not.
        advance: is told numbers of images that are done.

    Raises:
        ImportError: ray or pyarrow is not installed; says how to get it.
        ValueError: the folder holds another run.
        FailedRun: the cluster cannot be reached or is too small, or a disk failed.
        Exception: what a worker failed with; the same call goes on.
    """
    known = fingerprint(job)
    tell = advance or (lambda _: None)
    with open_run(job.parts.folder, known, resume):
        missing = job.parts.missing()
        tell(job.parts.images - sum(map(job.parts.size, missing)))
        try:
            run_parts(cluster, job, missing, tell)
        except OSError as error:
            left = sum(map(job.parts.size, job.parts.missing()))
            raise FailedRun(
                f"{error.filename or job.parts.folder}: {error.strerror or error};"
                f" {job.parts.images - left} of {job.parts.images} rows are in"
                f" {job.parts.folder}, and the same command goes on"
            ) from error
    return StoredRows(job.parts, known)
