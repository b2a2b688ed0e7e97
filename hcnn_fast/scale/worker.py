"""What runs in a worker: a prepared defence that makes chunks of rows and stores them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import ChunkReader
from hcnn_fast.jobs.work import ChunkWork


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

    def packed(self) -> bytes:
        """The job as bytes, classes of `__main__` included."""
        pickle = importlib.import_module("ray.cloudpickle")
        content: bytes = pickle.dumps(self)
        return content


class ChunkWorker:
    """A class for `map_batches`: rows that say where a chunk begins become its rows on disk.

    Args:
        places: folders that the driver imports from, used where they exist here.
        packed: a `Job`, as `Job.packed` makes it.
    """

    def __init__(self, places: list[str], packed: Any) -> None:
        ray = importlib.import_module("ray")
        sys.path += [p for p in places if p not in sys.path and Path(p).exists()]
        content = ray.get(packed) if isinstance(packed, ray.ObjectRef) else packed
        job: Job = ray.cloudpickle.loads(content)
        torch.set_num_threads(job.threads)
        device = torch.device(job.device)
        defense = Defense(job.model.eval().to(device), job.config, job.threshold)
        self._work = ChunkWork(defense, device, job.class_names, job.model_name)
        self._job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make one chunk at a time, and store it."""
        job, counts = self._job, []
        for first in batch["first"].tolist():
            chunk = job.reader.read(first, job.parts.size(first))
            rows, _ = self._work.rows(first, chunk)
            job.parts.write(first, rows)
            counts.append(len(rows))
        return {"rows": numpy.array(counts, dtype=numpy.int64)}
