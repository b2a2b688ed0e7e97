"""winograd_convolution beside oneDNN's float32 convolution; run with `make bench`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from implementations import timed
from torch import Tensor
from torch.nn.functional import conv2d

from hcnn_fast.engine.winograd import transform_weight, winograd_convolution

# Of ResNet-18 on CIFAR-10, as many images as a pass has there, and of the Fashion-MNIST network.
LAYERS = {
    "N32-C64-O64-32x32": (32, 64, 64, 32),
    "N32-C128-O128-16x16": (32, 128, 128, 16),
    "N32-C256-O256-8x8": (32, 256, 256, 8),
    "N32-C512-O512-4x4": (32, 512, 512, 4),
    "N256-C64-O128-7x7": (256, 64, 128, 7),
}


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.benchmark(group="winograd_convolution")
@pytest.mark.parametrize("way", ["cpu", "eager"])
@pytest.mark.parametrize("layer", LAYERS)
def bench_winograd_convolution(benchmark: Any, layer: str, way: str) -> None:
    images, channels, outputs, size = LAYERS[layer]
    maps = channels_last(torch.rand(images, channels, size, size))
    weight = channels_last(torch.randn(outputs, channels, 3, 3))
    bias = torch.randn(outputs)
    benchmark.extra_info["flop_of_the_plain_sum"] = 18 * channels * outputs * images * size**2
    if way == "eager":
        timed(benchmark, conv2d, maps, weight, bias, 1, 1)
        return
    timed(benchmark, winograd_convolution, maps, transform_weight(weight), bias, 1)
