"""What a search frees stays with the process while it runs, and its settings come back."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hcnn_fast.engine import free_memory
from hcnn_fast.engine.free_memory import (
    CHOSEN_BY,
    KEEP,
    LEAVE,
    MMAP_THRESHOLD,
    TRIM_THRESHOLD,
    freed_memory_kept,
)

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


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What is asked of the C library, in order."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(free_memory, "_mallopt", lambda: lambda *pair: asked.append(pair))
    yield asked
    assert free_memory._inside == 0


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


def test_without_the_function_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "_mallopt", lambda: None)
    with freed_memory_kept():
        assert free_memory._inside == 1
    assert free_memory._inside == 0
