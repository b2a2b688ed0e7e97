"""How long a job takes on so many workers: a model of few numbers, all of them measurable."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hcnn_fast.jobs.work import CHUNK


@dataclass(frozen=True)
class JobCosts:
    """What a job costs on one kind of machine.

    Attributes:
        seconds_per_image: of one worker that searches: `hcnn-fast bench`, or a run of one process.
        start_seconds: from the command to the first image, workers starting side by side.
        seconds_per_chunk: what the driver does for a chunk, one chunk after the other.
        bytes_per_image: that a worker reads.
        bytes_per_second: that the storage gives to all workers together.
        end_seconds_per_image: to join the rows at the end.
        chunk: images that are handed out together.

    Raises:
        ValueError: a field is not a finite number, or below 0, or, where that is needed, 0.
    """

    seconds_per_image: float
    start_seconds: float = 0.0
    seconds_per_chunk: float = 0.0
    bytes_per_image: float = 0.0
    bytes_per_second: float = math.inf
    end_seconds_per_image: float = 0.0
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("seconds_per_image", "bytes_per_second", "chunk"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a number > 0")
        for name in (
            "seconds_per_image",
            "start_seconds",
            "seconds_per_chunk",
            "bytes_per_image",
            "end_seconds_per_image",
        ):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected a finite number >= 0"
                )


def wall_seconds(costs: JobCosts, images: int, workers: int) -> float:
    """Time of a job: start, then the slowest of search, driver and storage, then the joined rows.

    Chunks are whole: the search lasts as long as the worker with most of them. The three run side
    by side, so the slowest of them counts.

    Args:
        costs: of the machines.
        images: number of images, >= 0.
        workers: number of workers, >= 1.

    Raises:
        ValueError: a number is out of its range.
    """
    if images < 0:
        raise ValueError(f"images is {images!r}, expected an int >= 0")
    if workers < 1:
        raise ValueError(f"workers is {workers!r}, expected an int >= 1")
    chunks = math.ceil(images / costs.chunk)
    busiest = min(images, math.ceil(chunks / workers) * costs.chunk)  # images of one worker
    search = busiest * costs.seconds_per_image
    driver = chunks * costs.seconds_per_chunk
    storage = images * costs.bytes_per_image / costs.bytes_per_second
    return costs.start_seconds + max(search, driver, storage) + images * costs.end_seconds_per_image


def speed_up(costs: JobCosts, images: int, workers: int) -> float:
    """How many times faster so many workers are than one that has nothing to start or hand out."""
    return images * costs.seconds_per_image / wall_seconds(costs, images, workers)


def useful_workers(costs: JobCosts, images: int, efficiency: float) -> int:
    """Most workers each of which still gives that share of a process alone; 0 where none does.

    Beyond the number found, up to as many workers as chunks, the share is lower.

    Raises:
        ValueError: `efficiency` is not in (0, 1].
    """
    if not 0.0 < efficiency <= 1.0:
        raise ValueError(f"efficiency is {efficiency!r}, expected a number in (0, 1]")
    most = max(1, math.ceil(images / costs.chunk))
    enough = [n for n in range(1, most + 1) if speed_up(costs, images, n) >= efficiency * n]
    return enough[-1] if enough else 0
