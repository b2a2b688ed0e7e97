"""What runs in a worker: a prepared defence that makes chunks of rows and stores them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.failures import FailedRun
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import ChunkReader
from hcnn_fast.jobs.work import ChunkWork
from hcnn_fast.scale.packing import Packed


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to make any chunk.

    Attributes:
        model: on the CPU.
        model_name: what messages call it.
        class_names: names of its classes, or None.
        reader: the images.
        parts: where the rows go.
        config: the search.
        threshold: smallest confidence that is accepted, or None.
        device: where to search.
        threads: torch threads.
    """

    model: nn.Module
    model_name: str
    class_names: tuple[str, ...] | None
    reader: ChunkReader
    parts: RowParts
    config: SearchConfig
    threshold: float | None
    device: str
    threads: int


class ChunkWorker:
    """A class for `map_batches`: rows that say where a chunk begins become its rows on disk.

    An exception is returned, not raised: Ray Data would keep its traceback alone.

    Args:
        job: a `Job`.
    """

    def __init__(self, job: Packed) -> None:
        self._job = job
        self._ready: tuple[Job, ChunkWork] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make one chunk at a time, and store it.

        Returns:
            Columns `rows`, how many were stored, and `failure`, a pickled exception or b"".
        """
        counts, failures = [], []
        for first in batch["first"].tolist():
            try:
                counts.append(self._store(first))
                failures.append(b"")
            except Exception as error:
                counts.append(0)
                failures.append(_pickled(error))
        return {
            "rows": numpy.array(counts, dtype=numpy.int64),
            "failure": numpy.array(failures, dtype=object),
        }

    def _store(self, first: int) -> int:
        if self._ready is None:
            self._ready = self._prepared()
        job, work = self._ready
        rows, _ = work.rows(first, job.reader.read(first, job.parts.size(first)))
        job.parts.write(first, rows)
        return len(rows)

    def _prepared(self) -> tuple[Job, ChunkWork]:
        job: Job = self._job.unpacked()
        torch.set_num_threads(job.threads)
        device = torch.device(job.device)
        defense = Defense(job.model.eval().to(device), job.config, job.threshold)
        return job, ChunkWork(defense, device, job.class_names, job.model_name)


def _pickled(error: Exception) -> bytes:
    """An exception that another process can read, or what it says where that one could not."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(FailedRun(f"{type(error).__name__}: {error}"))
    return content
