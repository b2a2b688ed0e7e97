"""Memory that a search frees and takes again at every step stays with the process meanwhile."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Of glibc's mallopt(3). What is left behind are the largest sizes that glibc comes to by itself, in
# a process that has freed a block of 32 MiB. Some versions take no larger threshold for mmap.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LEAVE = ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20))
KEEP = (*LEAVE, (MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1))
CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_inside = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep what is freed within the block, for the next allocation.

    A step of a search frees its activations and the next one takes as much again. What glibc hands
    back to the system in between comes anew as empty pages, one fault each, and all threads wait
    for some of them. The setting is the whole process's; where the user has chosen it in the
    environment, or the C library is another, nothing is set.
    """
    _count(+1, KEEP)
    try:
        yield
    finally:
        _count(-1, LEAVE)


def _count(change: int, sizes: tuple[tuple[int, int], ...]) -> None:
    """Count the blocks that are at work, and set the sizes with the first and after the last."""
    global _inside
    with _lock:
        _inside += change
        mallopt = _mallopt()
        if mallopt is not None and _inside == max(change, 0):
            for name, size in sizes:
                mallopt(name, size)


@cache
def _mallopt() -> Any:
    """The function; None where the C library has none, or the user has chosen the sizes."""
    if any(name in os.environ for name in CHOSEN_BY) or os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
