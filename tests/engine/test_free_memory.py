"""What a search frees stays with the process, or with a budget does not; settings come back."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import hcnn_fast as hf
from hcnn_fast.engine import free_memory
from hcnn_fast.engine.free_memory import (
    CHOSEN_BY,
    KEEP,
    LEAVE,
    MMAP_THRESHOLD,
    RETURN,
    SLACK,
    TRIM_THRESHOLD,
    freed_memory_kept,
    freed_memory_returned,
    return_freed_memory,
)
from hcnn_fast.engine.memory import BLOCK_BATCHES

ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
FAULTS = """
import contextlib, resource, sys
import torch
import hcnn_fast as hf

if sys.argv[1] == "handed back":
    sys.modules["hcnn_fast.search"].freed_memory_kept = contextlib.nullcontext
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
    torch.nn.Linear(64 * 28 * 28, 3),
).eval()
x = torch.rand(64, 1, 28, 28)  # maps of 37 MiB, more than glibc ever keeps by itself
config = hf.SearchConfig.mcn(0.1, steps=24, batch_size=192)
hf.search(model, x, config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
hf.search(model, x, config)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HOLES = """
import sys
import torch
from hcnn_fast.engine import free_memory
from hcnn_fast.engine.free_memory import freed_memory_kept, freed_memory_returned

within, count, size, returned = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
contexts = {"kept": freed_memory_kept, "returned": freed_memory_returned}
with contexts[within]():
    free_memory.return_freed_memory()  # after a batch that took little
    before, kept = free_memory._resident(), []
    for _ in range(count):
        large = torch.ones(size << 18)
        kept += [large, torch.ones(1 << 14)]  # the small one keeps the heap from shrinking
    full = free_memory._resident()
    del kept[::2], large
    if returned:
        free_memory.return_freed_memory()
    print(full - before, free_memory._resident() - before)
"""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What is asked of the C library, in order."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(free_memory, "_mallopt", lambda: lambda *pair: asked.append(pair))
    yield asked
    assert not any(free_memory._at_work.values())


def page_faults(way: str) -> int:
    """Page faults of a search in a process of its own that has made the same one before."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@ON_GLIBC
def test_a_search_takes_the_same_pages_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    assert 4 * page_faults("kept") < page_faults("handed back")


@ON_GLIBC
@pytest.mark.parametrize("name", CHOSEN_BY)
def test_what_the_user_has_chosen_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in CHOSEN_BY:
        monkeypatch.delenv(each, raising=False)
    free_memory._mallopt.cache_clear()
    assert free_memory._mallopt() is not None
    free_memory._mallopt.cache_clear()
    monkeypatch.setenv(name, "1")
    try:
        assert free_memory._mallopt() is None
    finally:
        free_memory._mallopt.cache_clear()


def test_the_first_block_sets_the_sizes_and_the_last_one_sets_them_back(
    settings: list[tuple[int, int]],
) -> None:
    with freed_memory_kept():
        assert settings == [*KEEP]
        with pytest.raises(KeyError), freed_memory_kept():
            raise KeyError
        assert settings == [*KEEP]
    assert settings == [*KEEP, *LEAVE]


def test_a_threshold_that_is_refused_leaves_a_large_one() -> None:
    """glibc may take no more than 32 MiB for mmap, and stops adapting it once the other is set."""
    assert next(size for name, size in KEEP if name == MMAP_THRESHOLD) == 32 << 20
    assert KEEP[-1][0] == TRIM_THRESHOLD


def test_a_bound_on_memory_goes_before_speed(settings: list[tuple[int, int]]) -> None:
    with freed_memory_kept():
        with freed_memory_returned(), freed_memory_kept():
            assert settings == [*KEEP, *RETURN]
        assert settings == [*KEEP, *RETURN, *KEEP]
    assert settings == [*KEEP, *RETURN, *KEEP, *LEAVE]


@ON_GLIBC
@pytest.mark.parametrize(
    ("within", "count", "mebibytes", "after_a_batch", "goes"),
    [
        ("returned", 4, 32, False, True),  # mapped
        ("returned", 64, 2, False, False),
        ("returned", 64, 2, True, True),
        ("kept", 96, 2, False, False),
        ("kept", 96, 2, True, True),
        ("kept", 48, 2, True, False),  # not much
    ],
)
def test_what_is_freed_goes_back_to_the_system(
    within: str,
    count: int,
    mebibytes: int,
    after_a_batch: bool,
    goes: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    numbers = map(str, (count, mebibytes, int(after_a_batch)))
    done = subprocess.run(
        [sys.executable, "-c", HOLES, within, *numbers], capture_output=True, text=True, check=True
    )
    full, left = map(int, done.stdout.split())
    assert full > 0.9 * (count * mebibytes << 20)
    assert left < full / 4 if goes else left > full / 2


def test_what_every_batch_takes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    resident = 0

    class Library:
        malloc_trim = trimmed.append

    monkeypatch.setattr(free_memory, "_glibc", Library)
    monkeypatch.setattr(free_memory, "_mallopt", lambda: None)
    monkeypatch.setattr(free_memory, "_resident", lambda: resident)
    with freed_memory_kept():
        resident = 100 * SLACK  # what a batch takes
        for grown, times in (0, 0), (SLACK, 0), (SLACK + 1, 1), (2 * SLACK, 1), (3 * SLACK + 1, 2):
            resident = 100 * SLACK + grown
            return_freed_memory()
            assert len(trimmed) == times, grown
        return_freed_memory(slack=0)  # now known to be held after a batch
        return_freed_memory(slack=0)
        assert len(trimmed) == 2
        resident += SLACK + 1
        return_freed_memory()
        assert len(trimmed) == 3
        return_freed_memory()
        resident += 1
        return_freed_memory()
        assert len(trimmed) == 3
        return_freed_memory(slack=0)
        assert len(trimmed) == 4
    with freed_memory_kept():  # another search begins anew
        resident = 200 * SLACK
        return_freed_memory()
        assert len(trimmed) == 4
    resident = 300 * SLACK
    return_freed_memory()  # of nobody who asked for it
    assert len(trimmed) == 4


def test_a_search_returns_it_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        sys.modules["hcnn_fast.search"], "return_freed_memory", lambda slack: asked.append(slack)
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    config = hf.SearchConfig.mcn(0.1, steps=2, batch_size=2)
    hf.search(model, torch.rand(3 * 2 * BLOCK_BATCHES, 1, 2, 2), config)
    assert asked == [0, 0]
    hf.search(model, torch.rand(2, 1, 2, 2), config)
    assert asked == [0, 0]


@pytest.mark.parametrize("budget", [None, 2**30])
def test_a_search_with_a_budget_returns_it_after_every_batch(
    budget: int | None, settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed: list[int] = []

    class Library:
        malloc_trim = trimmed.append

    monkeypatch.setattr(free_memory, "_glibc", Library)
    monkeypatch.setattr(free_memory, "_resident", lambda: 0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    config = hf.SearchConfig.mcn(0.1, steps=2, batch_size=8, memory_budget=budget)
    hf.search(model, torch.rand(64, 1, 2, 2), config)
    assert settings == [*(KEEP if budget is None else RETURN), *LEAVE]
    assert not trimmed if budget is None else len(trimmed) > 64 * 3 // 8
    assert set(trimmed) <= {0}


def test_without_the_function_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "_mallopt", lambda: None)
    with freed_memory_kept():
        assert free_memory._at_work[KEEP] == 1
    assert free_memory._at_work[KEEP] == 0
