"""Results stored chunk by chunk, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.evaluation import AttemptTable, read_attempts, write_attempts
from hcnn_fast.run_folder import Resume, open_run

CHUNKS = "chunks"


@dataclass(frozen=True)
class ChunkStore:
    """Tables of one run on disk, each whole or absent.

    Attributes:
        folder: the run's folder.
        fingerprint: everything that decides the content of the chunks, as plain values.
    """

    folder: Path
    fingerprint: Mapping[str, Any]

    def path(self, part: str, name: str) -> Path:
        """Where a table is kept."""
        return self.folder / CHUNKS / part / f"{name}.parquet"

    def has(self, part: str, name: str) -> bool:
        """Whether a table is there."""
        return self.path(part, name).is_file()

    def write(self, part: str, name: str, table: AttemptTable) -> None:
        """Store a table, all or nothing."""
        path = self.path(part, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_attempts(path, table)

    def read(self, part: str, name: str, example: Tensor) -> AttemptTable:  # example [n]
        """Read a table back.

        Raises:
            ValueError: it does not hold exactly these examples, or cannot be read.
        """
        path = self.path(part, name)
        table = read_attempts(path)
        points = table.example[table.example >= 0]  # below are inputs that are no images
        if torch.unique(points).tolist() != sorted(example.tolist()):
            raise ValueError(f"{path} holds other points than its run chose; delete it")
        return table


@contextmanager
def open_store(
    folder: Path,
    fingerprint: Mapping[str, Any],
    resume: Resume = "automatic",
) -> Iterator[ChunkStore]:
    """Begin a run in a folder, or go on with the one that is there, as `open_run` does."""
    with open_run(folder, fingerprint, resume):
        yield ChunkStore(folder, fingerprint)
