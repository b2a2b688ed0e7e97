"""Results stored chunk by chunk, so that a killed run goes on where it was."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hcnn_fast.atomic_files import write_atomically
from hcnn_fast.evaluation import AttemptTable, read_attempts, write_attempts

Resume = Literal["automatic", "always", "never"]

RUN, LOCK, CHUNKS = "run.json", ".lock", "chunks"


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
    """Begin a run in a folder, or go on with the one that is there.

    One process at a time may hold a folder; the lock goes with the process, however that ends.

    Args:
        folder: is made where missing.
        fingerprint: everything that decides the content of the chunks, as values of JSON.
        resume: "automatic": go on with what is there, if anything is; "always": something must be
            there; "never": nothing may be.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: the folder holds a run with another fingerprint, or `resume` forbids to go on;
            or another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is in use by another run; wait for its end") from error
        _check_run(folder, fingerprint, resume)
        for left in folder.rglob(".*.part"):  # of a write that was killed
            left.unlink()
        yield ChunkStore(folder, fingerprint)


def _check_run(folder: Path, fingerprint: Mapping[str, Any], resume: Resume) -> None:
    path = folder / RUN
    if not path.is_file():
        if resume == "always":
            raise ValueError(f"{folder} holds no run to go on with; leave out --resume always")
        text = json.dumps(fingerprint, indent=2, sort_keys=True)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
        return
    if resume == "never":
        raise ValueError(f"{folder} holds a run already; choose another --output")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); choose another --output") from error
    unlike = differences(stored, json.loads(json.dumps(fingerprint)))
    if unlike:
        raise ValueError(
            f"{folder} holds another run ({'; '.join(unlike)}); choose another --output"
        )


def differences(stored: Any, asked: Any, name: str = "") -> list[str]:
    """In which values two records of JSON differ, each as "name was ..., now ..."."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        found = []
        for key in sorted({*stored, *asked}):
            inner = f"{name}.{key}" if name else key
            found += differences(stored.get(key), asked.get(key), inner)
        return found
    return [] if stored == asked else [f"{name} was {_short(stored)}, now {_short(asked)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
