"""The cost model against schedules that are played through, worker by worker."""

from __future__ import annotations

import heapq
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcnn_fast.scale.plan import JobCosts, speed_up, useful_workers, wall_seconds


def played_through(costs: JobCosts, images: int, workers: int) -> float:
    """Hand out the chunks one by one, each to the worker that is free first."""
    free = [0.0] * workers
    for first in range(0, images, costs.chunk):
        size = min(costs.chunk, images - first)
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + size * costs.seconds_per_image)
    return costs.start_seconds + max(free)


@given(
    images=st.integers(0, 700),
    workers=st.integers(1, 20),
    chunk=st.integers(1, 70),
    start=st.floats(0, 50),
)
def test_wall_time_is_that_of_the_schedule_within_the_last_chunk(
    images: int, workers: int, chunk: int, start: float
) -> None:
    costs = JobCosts(seconds_per_image=0.5, start_seconds=start, chunk=chunk)
    played = played_through(costs, images, workers)
    found = wall_seconds(costs, images, workers)
    assert played <= found + 1e-9  # the model takes the last chunk as a whole one
    assert found <= played + 0.5 * (chunk - 1) + 1e-9
    if images % chunk == 0:
        assert found == pytest.approx(played)


def test_slowest_of_search_driver_and_storage_counts() -> None:
    common: dict[str, Any] = {"start_seconds": 3.0, "end_seconds_per_image": 0.001}
    search = JobCosts(seconds_per_image=0.1, **common)
    assert wall_seconds(search, 640, 10) == pytest.approx(3 + 6.4 + 0.64)
    driver = JobCosts(seconds_per_image=0.1, seconds_per_chunk=2.0, **common)
    assert wall_seconds(driver, 640, 10) == pytest.approx(3 + 20 + 0.64)
    storage = JobCosts(
        seconds_per_image=0.1, bytes_per_image=100.0, bytes_per_second=1000.0, **common
    )
    assert wall_seconds(storage, 640, 10) == pytest.approx(3 + 64 + 0.64)
    assert wall_seconds(storage, 0, 10) == 3.0


def test_a_worker_that_costs_nothing_to_start_is_worth_itself() -> None:
    costs = JobCosts(seconds_per_image=0.25)
    assert speed_up(costs, 6400, 1) == pytest.approx(1.0)
    assert speed_up(costs, 6400, 50) == pytest.approx(50.0)
    assert useful_workers(costs, 6400, 1.0) == 100  # as many as chunks
    assert useful_workers(JobCosts(seconds_per_image=0.01, start_seconds=1e9), 640, 0.5) == 0


def test_useful_workers_are_the_last_that_pay() -> None:
    costs = JobCosts(seconds_per_image=0.25, start_seconds=20.0)
    count = useful_workers(costs, 64_000, 0.8)
    assert speed_up(costs, 64_000, count) >= 0.8 * count
    shares = [speed_up(costs, 64_000, n) / n for n in range(count + 1, 1001)]
    assert max(shares) < 0.8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seconds_per_image": 0.0}, "seconds_per_image is 0.0, expected a number > 0"),
        ({"seconds_per_image": math.nan}, "seconds_per_image is nan"),
        ({"seconds_per_image": math.inf}, "seconds_per_image is inf, expected a finite"),
        ({"start_seconds": -1.0}, "start_seconds is -1.0"),
        ({"bytes_per_second": 0.0}, "bytes_per_second is 0.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
    ids=str,
)
def test_impossible_costs_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        JobCosts(**{"seconds_per_image": 0.1, **fields})


def test_impossible_jobs_are_refused() -> None:
    costs = JobCosts(seconds_per_image=0.1)
    with pytest.raises(ValueError, match="images is -1"):
        wall_seconds(costs, -1, 1)
    with pytest.raises(ValueError, match="workers is 0"):
        wall_seconds(costs, 1, 0)
    with pytest.raises(ValueError, match="efficiency is 0"):
        useful_workers(costs, 1, 0)
