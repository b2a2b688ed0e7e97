"""The machine's rates and the peak of its memory."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hcnn_fast.measurement import PeakMemory, measure_roofs, roofs
from hcnn_fast.measurement.peak_memory import _resident_peak

CPU = torch.device("cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores would be what is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_roofs_are_positive_and_repeat_within_a_factor() -> None:
    first, second = (measure_roofs(CPU, size=640, copied_bytes=1 << 24) for _ in range(2))
    for name in ("flops_per_second", "bytes_per_second"):
        one, two = getattr(first, name), getattr(second, name)
        assert one > 1e6
        assert 1 / 8 < one / two < 8  # of a machine that does other things as well
    assert (first.size, first.copied_bytes, first.threads) == (640, 1 << 24, 1)


def test_rates_count_the_work_of_their_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs that take half a second each, in the median round."""
    jobs: list[object] = []

    def half_a_second(
        job: Callable[[], object], device: torch.device, *, rounds: int
    ) -> list[float]:
        jobs.append(job())
        return [9.0, 0.5, 0.1]

    monkeypatch.setattr(roofs, "time_rounds", half_a_second)
    found = measure_roofs(CPU, size=100, copied_bytes=4000)
    assert found.flops_per_second == 2 * 100**3 / 0.5  # a multiplication and an addition each
    assert found.bytes_per_second == 2 * 4000 / 0.5  # read and written
    product, copy = jobs
    assert isinstance(product, torch.Tensor)
    assert isinstance(copy, torch.Tensor)
    assert (product.shape, product.dtype) == ((100, 100), torch.float32)
    assert copy.nbytes == 4000


@pytest.mark.parametrize("sizes", [{"size": 0}, {"copied_bytes": 3}])
def test_a_size_below_one_value_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(sizes))} is \d, expected an int >= "):
        measure_roofs(CPU, **sizes)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no clear_refs")
def test_the_peak_is_of_the_block_alone() -> None:
    size = 200 << 20
    with PeakMemory(CPU) as idle:
        pass
    with PeakMemory(CPU) as busy:
        torch.ones(size // 4)
    with PeakMemory(CPU) as after:
        pass
    assert busy.kind == "resident"
    assert busy.bytes - idle.bytes == pytest.approx(size, rel=0.1)
    assert busy.bytes - after.bytes == pytest.approx(size, rel=0.1)


def test_where_the_peak_cannot_be_set_back_it_is_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("hcnn_fast.measurement.peak_memory._CLEAR", tmp_path)  # a folder
    with PeakMemory(CPU) as memory:
        pass
    assert memory.kind == "resident since the process began"
    assert memory.bytes > 10 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_read_in_bytes() -> None:
    assert _resident_peak("Name:\tx\nVmHWM:\t    2060 kB\nVmRSS:\t 9 kB\n") == 2060 * 1024
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    assert _resident_peak(status) >= int(found[1]) * 1024
