"""The bytes that a call holds at once, by the allocator's own account."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def measured(run: Callable[[], Result]) -> tuple[Result, int]:
    """What a call returns, and the most bytes on the CPU that it added to those in use.

    The profiler sees every allocation and every release, those inside an operation too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    events = recorded.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), order, event.nbytes())
        for order, event in enumerate(events)
        if event.name() == "[memory]"
    )
    live = peak = 0
    for _, _, change in changes:
        live += change
        peak = max(peak, live)
    return result, peak
