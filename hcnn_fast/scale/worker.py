"""What runs in a worker: a job, made ready once, of which it makes and stores part by part."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Protocol

import numpy

from hcnn_fast.failures import FailedRun
from hcnn_fast.scale.packing import Packed

# Makes the part that begins at an index, stores it, and says how many images it held.
Store = Callable[[int], int]


class Job(Protocol):
    """Work in parts that are made and stored one by one, in any order; can be pickled."""

    def prepared(self) -> Store:
        """Get ready, once in every worker: threads set, models where they run."""


class PartWorker:
    """A class for `map_batches`: rows that say where a part begins become its rows on disk.

    An exception is returned, not raised: Ray Data would keep its traceback alone.

    Args:
        job: a `Job`.
    """

    def __init__(self, job: Packed) -> None:
        self._job = job
        self._store: Store | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make one part at a time, and store it.

        Returns:
            Columns `rows`, how many were stored, and `failure`, a pickled exception or b"".
        """
        counts, failures = [], []
        for first in batch["first"].tolist():
            try:
                if self._store is None:
                    self._store = self._job.unpacked().prepared()
                counts.append(self._store(first))
                failures.append(b"")
            except Exception as error:
                counts.append(0)
                failures.append(_pickled(error))
        return {
            "rows": numpy.array(counts, dtype=numpy.int64),
            "failure": numpy.array(failures, dtype=object),
        }


def _pickled(error: Exception) -> bytes:
    """An exception that another process can read, or what it says where that one could not."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(FailedRun(f"{type(error).__name__}: {error}"))
    return content
