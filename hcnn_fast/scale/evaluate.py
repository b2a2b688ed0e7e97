"""An experiment's chunks of points on Ray Data, in the folder of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.experiments.chunks import ChunkStore
from hcnn_fast.experiments.run import (
    Task,
    chunk_size,
    held_out_rows,
    make_chunk,
    missing_chunks,
)
from hcnn_fast.scale.engine import Cluster, connected, run_parts
from hcnn_fast.scale.worker import Store

HELD_OUT = -1  # the part of the points that are not attacked, which the other parts read


@dataclass(frozen=True)
class EvaluateJob:
    """Attacks on the points of an experiment.

    Attributes:
        task: the experiment, its models on the CPU.
        points: [points] int64 of every model that is attacked, by role.
        store: the folder of the chunks, seen by all workers under this name.
        device: where to attack.
        threads: torch threads.
    """

    task: Task
    points: dict[str, Tensor]
    store: ChunkStore
    device: str
    threads: int

    def prepared(self) -> Store:
        """See `worker.Job`."""
        torch.set_num_threads(self.threads)
        task = self.task.on(torch.device(self.device))
        held_out = held_out_rows(task, self.store)

        def store(first: int) -> int:
            if first == HELD_OUT:  # made on the way here
                return 0
            make_chunk(task, self.points, self.store, held_out, first)
            return chunk_size(task.settings, first)

        return store


def run_chunks_on_ray(
    task: Task,
    points: dict[str, Tensor],  # by role, [points]
    store: ChunkStore,
    *,
    cluster: Cluster,
    advance: Callable[[int], object],
) -> None:
    """Make every chunk that is missing, as `experiments.run_chunks` does, on workers of Ray.

    Rows are the same to the bit on processors of one kind and with as many threads, however many
    workers there are.

    Args:
        task: the experiment, its models on the CPU.
        points: what `experiments.chosen_points` returned.
        store: where chunks are kept, seen by all workers under this name.
        cluster: workers and where they are.
        advance: called with the number of points done, those found in the store included.

    Raises:
        ImportError: ray is not installed; says how to get it.
        FailedRun: the cluster cannot be reached, is too small, or gave up.
        Exception: what a worker failed with; the same call goes on.
    """
    job = EvaluateJob(task, points, store, cluster.device, cluster.threads)
    missing = missing_chunks(task, store)
    waiting = sum(chunk_size(task.settings, chunk) for chunk in missing)
    advance(task.settings.points - waiting)
    if not missing:
        return
    with connected(cluster):
        if task.experiment.held_out is not None:
            run_parts(cluster, job, [HELD_OUT], advance)  # before two workers make it at once
        run_parts(cluster, job, missing, advance)
