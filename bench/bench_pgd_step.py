"""pgd_step_ beside the same step as tensor expressions and beside a copy of the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hcnn_fast import ops

SHAPES = {"64x10x3x32x32": (64, 10, (3, 32, 32)), "256x10x3x64x64": (256, 10, (3, 64, 64))}


def _arguments(shape: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    images, labels, image = SHAPES[shape]
    rows = images * labels
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, *image, generator=generator)
    index = torch.arange(images).repeat_interleave(labels)
    point = x[index].clone()
    gradient = torch.randn(rows, *image, generator=generator)
    written = {
        "momentum_buffer": torch.zeros_like(point),
        "best": point.clone(),
        "best_value": torch.zeros(rows),
        "value": torch.rand(rows, generator=generator) - 0.5,
        "distance": torch.zeros(rows),
        "copy": point.to(torch.bfloat16),
    }
    settings = {"radius": 0.03, "bounds": (0.0, 1.0), "momentum": 0.75, **written}
    return (point, gradient, x, index, torch.full((rows,), 0.01)), settings


@pytest.mark.benchmark(group="pgd_step")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def bench_pgd_step(benchmark: Any, backend: str, shape: str) -> None:
    positional, settings = _arguments(shape)
    benchmark(ops.pgd_step_, *positional, backend=backend, **settings)


@pytest.mark.benchmark(group="pgd_step")
@pytest.mark.parametrize("shape", SHAPES)
def bench_copy(benchmark: Any, shape: str) -> None:
    """One copy of the candidates: reads and writes what the step reads and writes four times."""
    (point, *_), _ = _arguments(shape)
    benchmark(torch.empty_like(point).copy_, point)
