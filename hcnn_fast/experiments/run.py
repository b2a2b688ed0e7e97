"""A run of an experiment: missing chunks made one by one, then all of them read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hcnn_fast._version import __version__
from hcnn_fast.data import ImageDataset
from hcnn_fast.evaluation import AttemptTable, concatenate, write_attempts
from hcnn_fast.experiments.chunks import ChunkStore
from hcnn_fast.experiments.experiment import Evidence, Experiment, Subject, Work
from hcnn_fast.experiments.points import choose_points, divide, pixels
from hcnn_fast.experiments.settings import Settings
from hcnn_fast.models.identity import weights_hash

HELD_OUT = "held-out"  # name of the table of the points that are not attacked


@dataclass(frozen=True, kw_only=True)
class Task:
    """An experiment on models and data that have passed their checks.

    Attributes:
        experiment: which.
        subjects: the models, the one that the experiment is about first.
        data: where the points come from.
        settings: how.

    Raises:
        ValueError: two models stand for the same.
    """

    experiment: Experiment
    subjects: tuple[Subject, ...]
    data: ImageDataset
    settings: Settings

    def __post_init__(self) -> None:
        if len({subject.role for subject in self.subjects}) != len(self.subjects):
            names = " and ".join(subject.name for subject in self.subjects)
            role = self.subjects[0].role
            raise ValueError(f"models are {names}, both {role}; expected one of each kind")

    @property
    def measured(self) -> tuple[Subject, ...]:
        """The models that are attacked."""
        return self.subjects if self.experiment.both_models else self.subjects[:1]

    def on(self, device: torch.device) -> Task:
        """The same with its models on another device."""
        moved = (replace(s, model=s.model.to(device)) for s in self.subjects)
        return replace(self, subjects=tuple(moved))

    def fingerprint(self, device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
        """Everything that decides the rows, as plain values.

        Args:
            device: kind of device that makes them.
            threads: torch threads that do; None: those of this process.
        """
        digest = hashlib.sha256(self.data.images.contiguous().numpy().tobytes())
        digest.update(self.data.labels.numpy().tobytes())
        return {
            "experiment": self.experiment.name,
            "models": {
                s.role: {"name": s.name, "weights": weights_hash(s.model)} for s in self.subjects
            },
            "data": {
                "name": self.data.name,
                "split": self.data.split,
                "images": len(self.data),
                "content": digest.hexdigest(),
            },
            "settings": self.settings.to_dict(),
            "hcnn_fast": __version__,
            "torch": torch.__version__,
            "device": device,
            "threads": threads or torch.get_num_threads(),
        }

    def work(
        self,
        subject: Subject,
        example: Tensor,  # [n]
        held_out: AttemptTable | None = None,
    ) -> Work:
        """Some points, to be attacked on one of the models."""
        x, y = pixels(self.data, example, subject)
        return Work(
            subject=subject,
            others=tuple(other for other in self.subjects if other is not subject),
            example=example,
            x=x,
            y=y,
            classes=self.data.classes,
            settings=self.settings,
            held_out=held_out,
        )


def chosen_points(task: Task) -> dict[str, Tensor]:
    """The points [points] of every model that is attacked, by role.

    Raises:
        ValueError: there are not so many.
    """
    return {
        subject.role: choose_points(task.experiment, task.data, subject, task.settings)
        for subject in task.measured
    }


def run_chunks(
    task: Task,
    points: dict[str, Tensor],  # by role, [points]
    store: ChunkStore,
    *,
    seconds: float | None = None,
    advance: Callable[[int], None],
) -> None:
    """Make every chunk that is missing, for all models before the next, until time is up.

    Args:
        task: the experiment.
        points: what `chosen_points` returned.
        store: where chunks are kept.
        seconds: time to spend; at least one chunk is made. None: no limit.
        advance: called with the number of points done, those found in the store included.
    """
    began = time.monotonic()
    held_out = held_out_rows(task, store)
    missing = missing_chunks(task, store)
    for chunk in range(_chunks(task.settings)):
        if chunk in missing:
            make_chunk(task, points, store, held_out, chunk)
        advance(chunk_size(task.settings, chunk))
        if chunk in missing and seconds is not None and time.monotonic() - began >= seconds:
            return


def held_out_rows(task: Task, store: ChunkStore) -> dict[str, AttemptTable]:
    """The rows of the points that are not attacked, by role, made where they are missing."""
    if task.experiment.held_out is None:
        return {}
    rows = {}
    held = divide(task.data, task.settings.seed).held_out
    for subject in task.measured:
        if not store.has(subject.key, HELD_OUT):
            store.write(subject.key, HELD_OUT, task.experiment.held_out(task.work(subject, held)))
        rows[subject.role] = store.read(subject.key, HELD_OUT, held)
    return rows


def missing_chunks(task: Task, store: ChunkStore) -> list[int]:
    """Numbers of the chunks that are not there for every model."""
    return [
        chunk
        for chunk in range(_chunks(task.settings))
        if not all(store.has(subject.key, _name(chunk)) for subject in task.measured)
    ]


def chunk_size(settings: Settings, chunk: int) -> int:
    """Points of a chunk."""
    return len(range(settings.points)[_part(settings, chunk)])


def make_chunk(
    task: Task,
    points: dict[str, Tensor],  # by role, [points]
    store: ChunkStore,
    held_out: dict[str, AttemptTable],
    chunk: int,
) -> None:
    """Make a chunk's rows for every model that has none, and store them.

    Args:
        task: the experiment.
        points: what `chosen_points` returned.
        store: where chunks are kept.
        held_out: what `held_out_rows` returned.
        chunk: its number.
    """
    for subject in task.measured:
        if not store.has(subject.key, _name(chunk)):
            example = points[subject.role][_part(task.settings, chunk)]
            work = task.work(subject, example, held_out.get(subject.role))
            store.write(subject.key, _name(chunk), task.experiment.attempts(work))


def evidence(task: Task, points: dict[str, Tensor], store: ChunkStore) -> Evidence:
    """The rows of all chunks that are there for every model; each model's also as one file.

    Raises:
        ValueError: no chunk is done, or one cannot be read.
    """
    missing = missing_chunks(task, store)
    done = [chunk for chunk in range(_chunks(task.settings)) if chunk not in missing]
    if not done:
        raise ValueError(f"{store.folder} holds no chunk, expected one or more")
    tables, held_out = {}, {}
    for subject in task.measured:
        parts: list[AttemptTable] = []
        for chunk in done:
            example = points[subject.role][_part(task.settings, chunk)]
            parts.append(store.read(subject.key, _name(chunk), example))
        tables[subject.role] = concatenate(parts)
        write_attempts(store.folder / f"{subject.key}.parquet", tables[subject.role])
        if task.experiment.held_out is not None:
            held = divide(task.data, task.settings.seed).held_out
            held_out[subject.role] = store.read(subject.key, HELD_OUT, held)
    return Evidence(
        tables=tables,
        held_out=held_out,
        names={subject.role: subject.name for subject in task.measured},
        classes=task.data.classes,
        settings=task.settings,
    )


def points_done(found: Evidence) -> int:
    """How many points of every model the rows are of."""
    tables = found.tables.values()
    return min(len(torch.unique(table.example[table.example >= 0])) for table in tables)


def _chunks(settings: Settings) -> int:
    return -(-settings.points // settings.chunk)


def _part(settings: Settings, chunk: int) -> slice:
    return slice(chunk * settings.chunk, (chunk + 1) * settings.chunk)


def _name(chunk: int) -> str:
    return f"{chunk:05d}"
