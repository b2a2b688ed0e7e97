"""pgd_step_ beside the same step in eager and compiled PyTorch, and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from implementations import BACKENDS, DEVICE, timed
from torch import Tensor

from hcnn_fast import ops

CPU_SHAPES = {
    "1x10x1x28x28": (1, 10, (1, 28, 28)),
    "64x10x3x32x32": (64, 10, (3, 32, 32)),
    "256x10x3x64x64": (256, 10, (3, 64, 64)),
}
GPU_SHAPES = {**CPU_SHAPES, "5461x10x3x64x64": (5461, 10, (3, 64, 64))}
SHAPES = GPU_SHAPES if DEVICE == "cuda" else CPU_SHAPES
RADIUS, STEP, MOMENTUM, BOUNDS = 0.03, 0.01, 0.75, (0.0, 1.0)
KEPT = 0.5  # share of the candidates whose point is the best so far


def tensors(shape: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything that a step with momentum, distance, keep-best and low-precision copy takes."""
    images, labels, image = SHAPES[shape]
    rows = images * labels
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, *image, generator=generator)
    index = torch.arange(images).repeat_interleave(labels)
    point = x[index].clone()
    value = torch.arange(rows) % 2 - 0.5  # KEPT of them beat a best value of 0
    arguments = {
        "point": point,
        "gradient": torch.randn(rows, *image, generator=generator).to(dtype),
        "image": x,
        "image_index": index,
        "step_size": torch.full((rows,), STEP),
        "momentum_buffer": torch.zeros_like(point),
        "value": value,
        "best": point.clone(),
        "best_value": torch.zeros(rows),
        "distance": torch.zeros(rows),
        "copy": point.to(torch.bfloat16),
    }
    return {name: tensor.to(DEVICE) for name, tensor in arguments.items()}


def moved_bytes(t: dict[str, Tensor]) -> int:
    """Bytes that a step cannot do without: each tensor read or written once, images once."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in t.items()}
    twice = 2 * (sizes["point"] + sizes["momentum_buffer"])
    return int(twice + sizes["gradient"] + sizes["image"] + KEPT * sizes["best"] + sizes["copy"])


def eager_step(t: dict[str, Tensor]) -> None:
    """The step as one would write it in PyTorch, in place where that is natural."""
    point, m, x = t["point"], t["momentum_buffer"], t["image"][t["image_index"]]
    rows = (-1, 1, 1, 1)
    better = t["value"] > t["best_value"]
    t["best"].copy_(torch.where(better.view(rows), point, t["best"]))
    t["best_value"].copy_(torch.where(better, t["value"], t["best_value"]))
    gradient = t["gradient"].float()
    scale = gradient.flatten(1).abs().amax(1).view(rows)
    m.mul_(MOMENTUM).add_(gradient / scale)
    moved = point + t["step_size"].view(rows) * m.sign()
    lower, upper = (x - RADIUS).clamp_min(BOUNDS[0]), (x + RADIUS).clamp_max(BOUNDS[1])
    point.copy_(torch.minimum(torch.maximum(moved, lower), upper))
    t["distance"].copy_((point - x).flatten(1).abs().amax(1))
    t["copy"].copy_(point)


def fused_step(backend: str) -> Callable[[dict[str, Tensor]], None]:
    def step(t: dict[str, Tensor]) -> None:
        ops.pgd_step_(
            t["point"],
            t["gradient"],
            t["image"],
            t["image_index"],
            t["step_size"],
            radius=RADIUS,
            bounds=BOUNDS,
            momentum_buffer=t["momentum_buffer"],
            momentum=MOMENTUM,
            value=t["value"],
            best=t["best"],
            best_value=t["best_value"],
            distance=t["distance"],
            copy=t["copy"],
            backend=backend,
        )

    return step


WAYS = [*BACKENDS, "eager", "compiled", "copy"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def bench_pgd_step(benchmark: Any, way: str, shape: str, dtype: torch.dtype) -> None:
    """`dtype` is the gradient's; `copy` copies as many bytes as a step moves."""
    benchmark.group = f"pgd_step {shape} {str(dtype).removeprefix('torch.')}"
    t = tensors(shape, dtype)
    total = moved_bytes(t)
    if way == "copy":
        source = torch.rand(total // 8, device=DEVICE)  # read and written: half each
        timed(benchmark, torch.empty_like(source).copy_, source)
    else:
        step = {"eager": eager_step, "compiled": torch.compile(eager_step)}.get(way)
        timed(benchmark, step or fused_step(way), t)
    benchmark.extra_info["gigabytes_per_second"] = total / benchmark.stats.stats.median / 1e9
