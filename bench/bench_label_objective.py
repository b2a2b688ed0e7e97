"""label_objective beside softmax, gather and the analytic gradient as tensor expressions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hcnn_fast import ops

SHAPES = [(640, 10), (640, 1000)]


def eager(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # [B, C], [B]
    """log F_l and its gradient, as one would write them."""
    log_f = torch.log_softmax(logits, 1)
    gradient = -log_f.exp()
    gradient.scatter_add_(1, labels[:, None], torch.ones_like(logits[:, :1]))
    return log_f.gather(1, labels[:, None])[:, 0], gradient


@pytest.mark.benchmark(group="label_objective")
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
@pytest.mark.parametrize("kind", ["cpu", "eager"])
def bench_label_objective(benchmark: Any, kind: str, rows: int, classes: int) -> None:
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(rows) % classes
    if kind == "eager":
        benchmark(eager, logits, labels)
        return
    value, gradient = torch.empty(rows), torch.empty_like(logits)
    benchmark(
        ops.label_objective,
        logits,
        labels,
        "log_probability",
        value=value,
        gradient=gradient,
        backend="cpu",
    )
