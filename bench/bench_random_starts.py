"""content_hash and random_starts beside torch's own generator, which keys nothing by content."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from implementations import BACKENDS, DEVICE, timed
from torch import Tensor

from hcnn_fast import ops

IMAGES, LABELS, STARTS = 64, 10, 4
RADIUS, BOUNDS = 0.03, (0.0, 1.0)


def eager(image: Tensor, index: Tensor) -> Tensor:  # [B, *image]
    """Uniform points in ball and bounds from torch's generator."""
    x = image[index]
    lower, upper = (x - RADIUS).clamp_min(BOUNDS[0]), (x + RADIUS).clamp_max(BOUNDS[1])
    return lower + torch.rand_like(x) * (upper - lower)


@pytest.mark.benchmark(group="random_starts")
@pytest.mark.parametrize("way", [*BACKENDS, "eager"])
def bench_random_starts(benchmark: Any, way: str) -> None:
    image = torch.rand(IMAGES, 3, 32, 32, device=DEVICE)
    index = torch.arange(IMAGES, device=DEVICE).repeat_interleave(LABELS * STARTS)
    label = torch.arange(LABELS, device=DEVICE).repeat_interleave(STARTS).repeat(IMAGES)
    start = torch.arange(1, STARTS + 1, device=DEVICE).repeat(IMAGES * LABELS)
    if way == "eager":
        timed(benchmark, eager, image, index)
        return

    def fused() -> None:
        key = ops.content_hash(image, backend=way)
        ops.random_starts(
            image, key, index, label, start, seed=0, radius=RADIUS, bounds=BOUNDS, backend=way
        )

    timed(benchmark, fused)
