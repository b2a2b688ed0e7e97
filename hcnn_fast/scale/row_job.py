"""A job that makes rows of images: everything that a worker needs to make any chunk of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hcnn_fast.jobs.inputs import ImageSource
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import ChunkReader
from hcnn_fast.jobs.work import CHUNK, RowTask
from hcnn_fast.scale.engine import Cluster
from hcnn_fast.scale.worker import Store


@dataclass(frozen=True)
class RowJob:
    """A task over the images of a reader.

    Attributes:
        task: what makes the rows, its model on the CPU.
        reader: the images.
        parts: where the rows go.
        device: where to work.
        threads: torch threads.
    """

    task: RowTask
    reader: ChunkReader
    parts: RowParts
    device: str
    threads: int

    @staticmethod
    def over(task: RowTask, source: ImageSource, folder: str | Path, cluster: Cluster) -> RowJob:
        """The task over all images of a source, its rows in a folder that all workers see."""
        return RowJob(
            task=task,
            reader=source.reader,
            parts=RowParts(Path(folder).absolute(), source.count, CHUNK, task.columns),
            device=cluster.device,
            threads=cluster.threads,
        )

    def prepared(self) -> Store:
        """See `worker.Job`."""
        torch.set_num_threads(self.threads)
        work = self.task.work(torch.device(self.device))

        def store(first: int) -> int:
            rows, _ = work.rows(first, self.reader.read(first, self.parts.size(first)))
            self.parts.write(first, rows)
            return len(rows)

        return store
