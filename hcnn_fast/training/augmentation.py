"""Random mirroring and shifting of training images."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(
    images: Tensor,  # [B, C, H, W]
    *,
    flip: bool,
    shift: int,
    generator: torch.Generator,
) -> Tensor:  # [B, C, H, W]
    """Mirror half of the images left to right and move each by up to `shift` pixels.

    Args:
        images: [B, C, H, W] any dtype and device.
        flip: whether to mirror.
        shift: largest move in pixels, to either side, in both directions; 0 comes in.
        generator: CPU generator that all choices are drawn from.
    """
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5  # [B]
        images = torch.where(mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)
    if not shift:
        return images
    padded = torch.nn.functional.pad(images, (shift,) * 4)  # [B, C, H + 2 shift, W + 2 shift]
    corner = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)  # [2, B, 1]
    rows = (corner[0] + torch.arange(height)).to(images.device)  # [B, H]
    columns = (corner[1] + torch.arange(width)).to(images.device)  # [B, W]
    rows = rows.view(count, 1, height, 1)
    columns = columns.view(count, 1, 1, width)
    image = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows, columns]
