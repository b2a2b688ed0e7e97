"""select beside the same choice by argmax and gather in eager PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from implementations import BACKENDS, DEVICE, timed
from torch import Tensor

from hcnn_fast import ops

IMAGES, LABELS, STARTS, CLASSES = 256, 10, 4, 10


def eager(point: Tensor, logits: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Best start of every label, best label, its point and prediction; ties as argmax has them."""
    start = value.view(-1, STARTS).argmax(1)
    row = (start + torch.arange(len(start), device=DEVICE) * STARTS).view(IMAGES, LABELS)
    winner = value[row].argmax(1)
    chosen = row.gather(1, winner[:, None])[:, 0]
    return row, winner, point[chosen], logits[chosen].argmax(1)


@pytest.mark.benchmark(group="select")
@pytest.mark.parametrize("way", [*BACKENDS, "eager"])
def bench_select(benchmark: Any, way: str) -> None:
    rows = IMAGES * LABELS * STARTS
    point = torch.rand(rows, 3, 32, 32, device=DEVICE)
    logits = torch.randn(rows, CLASSES, device=DEVICE)
    value = torch.rand(rows, device=DEVICE)
    if way == "eager":
        timed(benchmark, eager, point, logits, value)
        return

    def fused() -> None:
        ops.select(point, logits, value, value, labels=LABELS, starts=STARTS, backend=way)

    timed(benchmark, fused)
