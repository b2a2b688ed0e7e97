"""The bytes that a call holds at once, by the allocator's own account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def measured(run: Callable[[], Result]) -> tuple[Result, int]:
    """What a call returns, and the most bytes on the CPU that it added to those in use.

    The profiler sees every allocation and every release, those inside an operation too. Releases of
    what was there before do not count: the profiler remembers blocks of earlier recordings.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    changes = _changes(recorded.profiler.kineto_results.experimental_event_tree())
    sizes: dict[int, int] = {}  # of the blocks in use, by address
    live = peak = 0
    for _, address, change in sorted(changes, key=lambda event: event[0]):
        if change > 0:
            sizes[address] = change
            live += change
        else:
            live -= sizes.pop(address, 0)
        peak = max(peak, live)
    return result, peak


def _changes(events: list[Any]) -> Iterator[tuple[int, int, int]]:
    """Time, address and bytes (negative: released) of every allocation among nested events."""
    for event in events:
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            yield event.start_time_ns, fields.ptr, fields.alloc_size
        yield from _changes(event.children)
