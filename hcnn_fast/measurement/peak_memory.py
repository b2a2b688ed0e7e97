"""The most memory that was in use while a block ran."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK = "5"  # written to clear_refs, it sets the peak of the resident set to its present size


class PeakMemory:
    """Context manager; afterwards `bytes` is the largest amount of memory in use at any time.

    On CUDA it is what torch allocated on the device. On the CPU it is the resident set of the
    process, interpreter and libraries included.

    Attributes:
        bytes: the peak; 0 before the block ends.
        kind: "allocated on the device", "resident", or, where the kernel does not let the peak be
            set back, "resident since the process began".
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = 0
        self.kind = "allocated on the device"

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        try:
            _CLEAR.write_text(_PEAK)
            self.kind = "resident"
        except OSError:
            self.kind = "resident since the process began"
        return self

    def __exit__(self, *failure: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self.kind == "resident":
            self.bytes = _resident_peak(_STATUS.read_text())
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            self.bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident_peak(status: str) -> int:
    """VmHWM of the text of /proc/self/status, in bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
