"""Images moved by the six affine parameters of a known manifold, differentiably."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PARAMETERS = ("translation x", "translation y", "shear x", "shear y", "scale", "rotation")


def affine_matrix(
    code: Tensor,  # [B, 6]
) -> Tensor:  # [B, 2, 3]
    """The map from output to input coordinates: scale * [[1, s1], [s2, 1]] * R(r), and (t1, t2).

    This is the product form: shears after a rotation R(r) = [[cos r, -sin r], [sin r, cos r]].
    Coordinates are those of `grid_sample`, [-1, 1] from the middle of the first pixel to that of
    the last, x before y; so a scale above 1 shows the image smaller.

    The code published with the source has cos r - s1 sin r in the first entry, where the product
    has cos r + s1 sin r; either family is a manifold, this one is what the text describes.

    Args:
        code: [B, 6] translations t1, t2, shears s1, s2, scale, and rotation r in radians.

    Source: Stutz, Hein and Schiele 2019, "Disentangling Adversarial Robustness and Generalization".
    """
    t1, t2, s1, s2, scale, r = code.unbind(1)  # [B] each
    cosine, sine = torch.cos(r), torch.sin(r)  # [B]
    first = torch.stack([scale * (cosine + s1 * sine), scale * (s1 * cosine - sine), t1], 1)
    second = torch.stack([scale * (s2 * cosine + sine), scale * (cosine - s2 * sine), t2], 1)
    return torch.stack([first, second], 1)


def moved(
    images: Tensor,  # [B, C, H, W]
    code: Tensor,  # [B, 6]
) -> Tensor:  # [B, C, H, W] in [0, 1]
    """Images under `affine_matrix`, bilinearly sampled, 0 outside, clamped to [0, 1]."""
    grid = F.affine_grid(affine_matrix(code), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True).clamp(0.0, 1.0)
