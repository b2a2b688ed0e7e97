"""The rates that this machine reaches on its two simplest jobs: products and copies."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hcnn_fast.measurement.observation import time_rounds

ROUNDS = 5


@dataclass(frozen=True)
class Roofs:
    """What was measured.

    Attributes:
        flops_per_second: of a square float32 matrix product.
        bytes_per_second: of a copy, bytes read and bytes written both counted.
        size: rows of the matrices.
        copied_bytes: size of what was copied.
        threads: of torch, while it was measured.
    """

    flops_per_second: float
    bytes_per_second: float
    size: int
    copied_bytes: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def measure_roofs(device: torch.device, *, size: int = 2048, copied_bytes: int = 1 << 28) -> Roofs:
    """Median rates of a few repetitions each; under two seconds with the defaults on two cores.

    Args:
        device: where to measure.
        size: rows of the square matrices; at 2048 the product is bound by arithmetic.
        copied_bytes: larger than any cache, so that the copy goes through memory.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size!r}, expected an int >= 1")
    if copied_bytes < 4:
        raise ValueError(f"copied_bytes is {copied_bytes!r}, expected an int >= 4")
    left = torch.rand(size, size, device=device)
    right, product = torch.rand_like(left), torch.empty_like(left)
    source = torch.rand(copied_bytes // 4, device=device)
    copy = torch.empty_like(source)
    return Roofs(
        flops_per_second=2 * size**3 / _median(lambda: torch.mm(left, right, out=product), device),
        bytes_per_second=8 * source.numel() / _median(lambda: copy.copy_(source), device),
        size=size,
        copied_bytes=4 * source.numel(),
        threads=torch.get_num_threads(),
    )


def _median(job: Callable[[], object], device: torch.device) -> float:
    """Seconds of a job, after one that warms up."""
    job()
    return statistics.median(time_rounds(job, device, rounds=ROUNDS))
