"""What becomes of memory that a search frees and takes again at every step."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

Sizes = tuple[tuple[int, int], ...]  # parameters of glibc's mallopt(3) and their values, in order

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# What is left behind are the largest sizes that glibc comes to by itself, in a process that has
# freed a block of 32 MiB. Some versions take no larger threshold for mmap.
LEAVE: Sizes = ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20))
KEEP: Sizes = (*LEAVE, (MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1))
# Tensors above the first size are mapped, and gone when they are freed. Below lie those of which
# the faults would cost more than the holes do that they leave between each other. What lies free at
# the end of the heap serves any allocation.
RETURN: Sizes = ((MMAP_THRESHOLD, 4 << 20), (TRIM_THRESHOLD, 64 << 20))
CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_at_work = Counter[Sizes]()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep what is freed within the block, for the next allocation.

    A step of a search frees its activations and the next one takes as much again. What glibc hands
    back to the system in between comes anew as empty pages, one fault each, and all threads wait
    for some of them. The setting is the whole process's; where the user has chosen it in the
    environment, or the C library is another, nothing is set.
    """
    with _set(KEEP):
        yield


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Let glibc hand back what is freed within the block, of this thread or of another.

    Batches shrink as runs retire, and blocks of a little less than before do not fit into what was
    freed: without this the process comes to hold several times what tensors do. As above, the
    user's own choice of sizes is respected; see also `return_freed_memory`.
    """
    with _set(RETURN):
        yield


def return_freed_memory() -> None:
    """Within `freed_memory_returned`, hand back what has been freed between blocks in use."""
    library = _glibc() if _at_work[RETURN] else None
    if library is not None:
        library.malloc_trim(0)


@contextmanager
def _set(sizes: Sizes) -> Iterator[None]:
    _count(sizes, +1)
    try:
        yield
    finally:
        _count(sizes, -1)


def _count(sizes: Sizes, change: int) -> None:
    """Count the blocks that are at work, and set the sizes where they are others now."""
    with _lock:
        before = _wanted()
        _at_work[sizes] += change
        mallopt = _mallopt()
        if mallopt is not None and _wanted() != before:
            for name, size in _wanted():
                mallopt(name, size)


def _wanted() -> Sizes:
    """A bound on memory goes before speed."""
    return next((sizes for sizes in (RETURN, KEEP) if _at_work[sizes]), LEAVE)


@cache
def _mallopt() -> Any:
    """The function; None where the C library has none, or the user has chosen the sizes."""
    library = _glibc()
    chosen = library is None or any(name in os.environ for name in CHOSEN_BY)
    return None if chosen else library.mallopt


@cache
def _glibc() -> Any:
    """The C library, if it is glibc."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
