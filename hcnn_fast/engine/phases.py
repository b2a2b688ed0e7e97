"""The input gradient of a convolution as a convolution itself, whatever the stride.

Maps that were padded are read in phases: pixel s * q + r, for a stride s and a phase r < s, is read
through the taps s * t + r, by output q - t. A convolution of the output's gradient therefore gives
the pixels of every phase as channels of their own; they have to be put in their places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def phases_of(
    weight: Tensor,  # [O, I, h, w]
    stride: tuple[int, int],
) -> Tensor:  # [sy * sx * I, O, ty, tx]
    """The weights of that convolution; its channels are those of the maps, phase by phase."""
    (sy, sx), (height, width) = stride, weight.shape[2:]
    outputs, channels = weight.shape[:2]
    ty, tx = -(-height // sy), -(-width // sx)
    filled = functional.pad(weight, (0, sx * tx - width, 0, sy * ty - height))
    taps = filled.view(outputs, channels, ty, sy, tx, sx).flip(2, 4)
    phases = taps.permute(3, 5, 1, 0, 2, 4).reshape(sy * sx * channels, outputs, ty, tx)
    return phases.contiguous(memory_format=torch.channels_last)


def maps_of_phases(
    pixels: Tensor,  # [B, sy * sx * I, Q, R]
    stride: tuple[int, int],
    first: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:  # [B, I, H, W] in channels-last order
    """The phases as maps of some size, from the pixel `first` on; zeros where there is none."""
    (sy, sx), (top, left) = stride, first
    batch, channels, rows, columns = pixels.shape
    channels //= sy * sx
    split = pixels.permute(0, 2, 3, 1).reshape(batch, rows, columns, sy, sx, channels)
    maps = split.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * sy, columns * sx, channels)
    maps = maps[:, top : top + size[0], left : left + size[1]]
    unread = (0, 0, 0, size[1] - maps.shape[2], 0, size[0] - maps.shape[1])  # by any output
    maps = functional.pad(maps, unread) if any(unread) else maps
    return maps.permute(0, 3, 1, 2)
