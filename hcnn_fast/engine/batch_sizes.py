"""Batches of few sizes: libraries make and keep something for every size that they meet.

On a GPU that is a captured graph. On a CPU oneDNN generates code for every layer and size and keeps
the last thousand of them. As runs end, batches would take all sizes there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.engine.slopes import Forward

IN_AN_OCTAVE = 4  # sizes, so that filling up adds less than a quarter


def filled_size(rows: int, in_an_octave: int = IN_AN_OCTAVE) -> int:
    """The smallest size of a batch that holds so many rows.

    By default sizes are all up to 8, and 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, ...
    """
    octave = (rows - 1).bit_length() - 1  # above the power of two below so many rows
    spacing = max(1, (1 << max(0, octave)) // in_an_octave)
    return rows + -rows % spacing


def filled(
    forward: Forward,
    z: Tensor,  # [B, *image]
    size: int,
) -> Tensor:  # [B, C]
    """Logits at z, from a pass of `size` >= B rows, of which those that are added count nothing.

    Each row of the logits has to depend on its own image alone.
    """
    if size == len(z):
        return forward(z)
    filling = z.detach()[:1].expand(size - len(z), *z.shape[1:])
    return forward(torch.cat([z, filling]))[: len(z)]
