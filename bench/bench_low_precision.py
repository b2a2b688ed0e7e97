"""Layers of a bfloat16 pass on the CPU as the engine computes them, beside torch's own.

Run with `make bench`. Every case is a forward pass and the gradient in its input, or one of both
where the engine changes only that.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from implementations import timed
from torch import Tensor, nn

from hcnn_fast.engine.im2col import use_im2col
from hcnn_fast.engine.layers import GreyConv2d, replace_grey_convolutions
from hcnn_fast.engine.model import native_bfloat16
from hcnn_fast.engine.rectifier import IntegerRectifier

pytestmark = pytest.mark.skipif(
    not native_bfloat16(torch.device("cpu")), reason="bfloat16 is emulated on this machine"
)
WIDE = {  # of ResNet-18: images, channels, outputs, size, stride
    "N96-C512-O512-4x4": (96, 512, 512, 4, 1),
    "N96-C256-O512-8x8-stride2": (96, 256, 512, 8, 2),
}
ROWS = {"N160": 160, "N640": 640}  # of the Fashion-MNIST network


def maps_of(*shape: int) -> Tensor:
    return torch.rand(shape).bfloat16().contiguous(memory_format=torch.channels_last)


def there_and_back(layer: nn.Module, leaf: Tensor, direction: Tensor) -> Tensor:
    """The gradient in the maps, after the forward pass."""
    (gradient,) = torch.autograd.grad(layer(leaf), leaf, direction)
    return gradient


@pytest.mark.benchmark(group="large weights, forward and backward")
@pytest.mark.parametrize("way", ["im2col", "eager"])
@pytest.mark.parametrize("case", WIDE)
def bench_large_weights(benchmark: Any, case: str, way: str) -> None:
    images, channels, outputs, size, stride = WIDE[case]
    layer = nn.Conv2d(channels, outputs, 3, stride, 1).bfloat16().requires_grad_(False)
    layer = layer.to(memory_format=torch.channels_last)
    if way == "im2col":
        use_im2col(layer)
    maps = maps_of(images, channels, size, size).requires_grad_()
    direction = torch.randn_like(layer(maps))
    timed(benchmark, there_and_back, layer, maps, direction)


@pytest.mark.benchmark(group="gradient in one-channel maps")
@pytest.mark.parametrize("way", ["phases", "patches", "eager"])
@pytest.mark.parametrize("rows", ROWS)
def bench_grey_gradient(benchmark: Any, rows: str, way: str) -> None:
    layer = nn.Conv2d(1, 32, 4, 2, 1).requires_grad_(False)
    layer = layer.bfloat16().to(memory_format=torch.channels_last)
    if way != "eager":
        replace_grey_convolutions(layer)
        assert isinstance(layer, GreyConv2d)
    if way == "phases":
        layer.lower()
    leaf = torch.rand(ROWS[rows], 1, 28, 28).bfloat16().requires_grad_()
    output = layer(leaf)
    direction = torch.randn_like(output)

    def gradient() -> Tensor:
        return torch.autograd.grad(output, leaf, direction, retain_graph=True)[0]

    timed(benchmark, gradient)


@pytest.mark.benchmark(group="ReLU in place")
@pytest.mark.parametrize("way", ["integers", "eager"])
@pytest.mark.parametrize("rows", ROWS)
def bench_relu(benchmark: Any, rows: str, way: str) -> None:
    maps = maps_of(ROWS[rows], 128, 7, 7)
    with IntegerRectifier() if way == "integers" else contextlib.nullcontext():
        timed(benchmark, torch.relu_, maps)


@pytest.mark.benchmark(group="matrix product")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def bench_matrix_product(benchmark: Any, dtype: str) -> None:
    """2048 rows: how much faster products alone are."""
    left, right = (torch.rand(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    timed(benchmark, torch.mm, left, right)
