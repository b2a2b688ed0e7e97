"""What becomes of memory that a search frees and takes again at every step."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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
# Bytes by which one batch after another may make the process grow before what lies free between
# blocks in use is handed back. Its pages are a fault each when they are taken again.
SLACK = 128 << 20
CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_STATM = Path("/proc/self/statm")
_lock = threading.Lock()
_at_work = Counter[Sizes]()
_after_one_batch: int | None = None  # bytes in memory then, since freed memory was handed back


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep what is freed within the block, for the next allocation.

    A step of a search frees its activations and the next one takes as much again. What glibc hands
    back to the system in between comes anew as empty pages, one fault each, and all threads wait
    for some of them. What would add up over many batches `return_freed_memory` bounds. The setting
    is the whole process's; where the user has chosen it in the environment, or the C library is
    another, nothing is set.
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


def return_freed_memory(slack: int = SLACK) -> None:
    """After a batch: hand back what has been freed between blocks in use.

    Within `freed_memory_returned` always; within `freed_memory_kept` where batches have made the
    process grow by more than `slack` bytes: what a batch takes and the next one takes again stays.
    Else not at all.
    """
    global _after_one_batch
    library, wanted = _glibc(), _wanted()
    if library is None or wanted == LEAVE:
        return
    if wanted == KEEP:
        resident, then = _resident(), _after_one_batch  # another thread may set it
        if then is None:
            _after_one_batch = then = resident
        if resident <= then + slack:
            return
    library.malloc_trim(0)
    _after_one_batch = None


@contextmanager
def _set(sizes: Sizes) -> Iterator[None]:
    _count(sizes, +1)
    try:
        yield
    finally:
        _count(sizes, -1)


def _count(sizes: Sizes, change: int) -> None:
    """Count the blocks that are at work, and set the sizes where they are others now."""
    global _after_one_batch
    with _lock:
        before = _wanted()
        if before == LEAVE:
            _after_one_batch = None
        _at_work[sizes] += change
        mallopt = _mallopt()
        if mallopt is not None and _wanted() != before:
            for name, size in _wanted():
                mallopt(name, size)


def _resident() -> int:
    """Bytes of the process in memory; 0 where the system does not say."""
    try:
        pages = _STATM.read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


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
