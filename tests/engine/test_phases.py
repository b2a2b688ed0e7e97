"""Input gradients of convolutions as convolutions, against those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hcnn_fast.engine.phases import maps_of_phases, phases_of


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        ((3, 3), (1, 1), (1, 1), (6, 7)),
        ((4, 4), (2, 2), (1, 1), (8, 8)),
        ((3, 3), (2, 2), (1, 1), (8, 7)),
        ((2, 2), (3, 3), (0, 0), (9, 10)),  # pixels that nothing reads
        ((1, 1), (2, 1), (0, 0), (5, 4)),
        ((5, 3), (2, 3), (4, 0), (7, 9)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_phases_in_their_places_are_the_input_gradient(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    channels: int,
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 4, kernel, stride, padding, bias=False).double()
    maps = torch.rand(2, channels, *size, dtype=torch.float64, requires_grad=True)
    output = layer(maps)
    direction = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, maps, direction)
    phases = phases_of(layer.weight.detach(), stride)
    margin = phases.shape[2] - 1, phases.shape[3] - 1
    pixels = nn.functional.conv2d(direction, phases, padding=margin)
    torch.testing.assert_close(maps_of_phases(pixels, stride, padding, size), expected)
