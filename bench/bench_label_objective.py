"""label_objective beside softmax, gather and the analytic gradient in eager PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from implementations import BACKENDS, DEVICE, timed
from torch import Tensor

from hcnn_fast import ops

SHAPES = [(10, 10), (640, 10), (640, 1000), (64, 21841)]


def eager(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # [B, C], [B]
    """log F_l and its gradient, e_l - F, as one would write them."""
    f = torch.softmax(logits.float(), 1)
    own = f.gather(1, labels[:, None])
    gradient = torch.nn.functional.one_hot(labels, logits.shape[1]) - f
    return own[:, 0].log(), gradient.to(logits.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
@pytest.mark.parametrize("way", [*BACKENDS, "eager", "compiled"])
def bench_label_objective(
    benchmark: Any, way: str, rows: int, classes: int, dtype: torch.dtype
) -> None:
    benchmark.group = f"label_objective {rows}x{classes} {str(dtype).removeprefix('torch.')}"
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))
    logits = logits.to(DEVICE, dtype)
    labels = torch.arange(rows, device=DEVICE) % classes
    if way in BACKENDS:
        value, gradient = torch.empty(rows, device=DEVICE), torch.empty_like(logits)

        def fused(logits: Tensor, labels: Tensor) -> None:
            ops.label_objective(
                logits, labels, "log_probability", value=value, gradient=gradient, backend=way
            )

        timed(benchmark, fused, logits, labels)
        return
    timed(benchmark, torch.compile(eager) if way == "compiled" else eager, logits, labels)
