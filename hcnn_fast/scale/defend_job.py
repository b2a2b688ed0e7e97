"""The job of `defend`: everything that a worker needs to make any chunk of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import ChunkReader
from hcnn_fast.jobs.work import ChunkWork
from hcnn_fast.scale.worker import Store


@dataclass(frozen=True)
class DefendJob:
    """Defended inference over the images of a reader.

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

    def prepared(self) -> Store:
        """See `worker.Job`."""
        torch.set_num_threads(self.threads)
        device = torch.device(self.device)
        defense = Defense(self.model.eval().to(device), self.config, self.threshold)
        work = ChunkWork(defense, device, self.class_names, self.model_name)

        def store(first: int) -> int:
            rows, _ = work.rows(first, self.reader.read(first, self.parts.size(first)))
            self.parts.write(first, rows)
            return len(rows)

        return store
