"""How far points are from a manifold of which only samples are known: a rank-aware tangent span."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 50
TOLERANCE = 1e-6  # of the largest singular value: smaller ones are rounding, not directions
REFERENCE_BATCH = 4096  # samples whose distances are held at once


@dataclass(frozen=True)
class Tangent:
    """An affine subspace for each of N images, spanned by samples near it.

    Attributes:
        centre: [N, D] float64, mean of the neighbours.
        basis: [N, K, D] float64, orthonormal rows, and rows of 0 where the rank is below K.
        rank: [N] int64.
    """

    centre: Tensor
    basis: Tensor
    rank: Tensor

    def residual(
        self,
        points: Tensor,  # [N, D]
    ) -> Tensor:  # [N, D] float64
        """What is left of points - centre after projection onto the span."""
        return self.perpendicular(points.double() - self.centre)

    def perpendicular(
        self,
        direction: Tensor,  # [N, D]
    ) -> Tensor:  # [N, D] float64
        """The part of each direction that is orthogonal to the span."""
        wide = direction.double()
        share = torch.einsum("nkd,nd->nk", self.basis, wide)
        return wide - torch.einsum("nkd,nk->nd", self.basis, share)


@dataclass(frozen=True)
class ManifoldDistance:
    """Images and perturbed images against the same tangents, in pixel units and radians.

    Attributes:
        image: [N] float64, l2 distance of each image from the span around its neighbours' mean.
        perturbed: [N] float64, the same of the perturbed image, by the neighbours of the image.
        angle: [N] float64, between the perturbation and the span, in [0, pi / 2]; NaN where
            nothing was moved.
        rank: [N] int64, dimensions of the span.
    """

    image: Tensor
    perturbed: Tensor
    angle: Tensor
    rank: Tensor


def tangents(
    images: Tensor,  # [N, *image]
    samples: Tensor,  # [M, *image] of the manifold, float or uint8 with 255 for 1
    *,
    neighbours: int = NEIGHBOURS,
    tolerance: float = TOLERANCE,
) -> Tangent:
    """The span of the nearest samples of each image around their mean, by SVD.

    The mean takes a direction away, and samples that repeat take others: singular values up to
    `tolerance` times the largest are dropped, where a QR decomposition would add arbitrary ones.

    Args:
        images: whose neighbours are looked for; an image that is a sample is its own.
        samples: of the manifold.
        neighbours: how many.
        tolerance: share of the largest singular value that a direction must exceed.

    Raises:
        ValueError: fewer samples than neighbours, fewer than two, or images of another size.
    """
    if not 2 <= neighbours <= len(samples):
        raise ValueError(
            f"neighbours is {neighbours}, expected an int >= 2 and at most the {len(samples)}"
            " samples"
        )
    x = images.flatten(1).double()  # [N, D]
    if samples.flatten(1).shape[1] != x.shape[1]:
        shapes = f"{list(samples.shape[1:])} and images {list(images.shape[1:])}"
        raise ValueError(f"samples have shape {shapes}, expected the same")
    near = _pixels(samples[_nearest(x, samples, neighbours)]).flatten(2)  # [N, k, D]
    centre = near.mean(1)  # [N, D]
    _, values, rows = torch.linalg.svd(near - centre[:, None], full_matrices=False)
    rounding = torch.finfo(values.dtype).eps * near.flatten(1).norm(dim=1, keepdim=True)  # [N, 1]
    kept = values > torch.maximum(tolerance * values[:, :1], rounding)  # [N, K]
    return Tangent(centre, rows * kept[..., None], kept.sum(1))


def manifold_distance(
    images: Tensor,  # [N, *image]
    perturbed: Tensor,  # [N, *image]
    tangent: Tangent,
) -> ManifoldDistance:
    """Distances before and after a perturbation, and its angle to the manifold.

    Args:
        images: before.
        perturbed: after.
        tangent: of the images; the same for both, since other neighbours would be another ruler.
    """
    x, moved = images.flatten(1).double(), perturbed.flatten(1).double()  # [N, D]
    delta = moved - x  # [N, D]
    off = tangent.perpendicular(delta)  # [N, D]
    angle = angle_between(delta, delta - off)  # [N]
    flat = (delta - off).norm(dim=1) == 0.0  # [N] orthogonal to all of the span
    angle = torch.where(flat, torch.pi / 2, angle)
    return ManifoldDistance(
        image=tangent.residual(x).norm(dim=1),
        perturbed=tangent.residual(moved).norm(dim=1),
        angle=torch.where(delta.norm(dim=1) > 0.0, angle, torch.nan),
        rank=tangent.rank,
    )


def angle_between(
    a: Tensor,  # [N, D]
    b: Tensor,  # [N, D]
) -> Tensor:  # [N] float64, radians in [0, pi]
    """Kahan's angle, exact to rounding also where arccos is not; NaN beside a vector of 0."""
    a, b = a.double(), b.double()
    size_a, size_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)  # [N, 1]
    scaled_a, scaled_b = a * size_b, b * size_a  # [N, D]
    angle = 2.0 * torch.atan2((scaled_a - scaled_b).norm(dim=1), (scaled_a + scaled_b).norm(dim=1))
    return torch.where((size_a * size_b)[:, 0] > 0.0, angle, torch.nan)


def _nearest(
    x: Tensor,  # [N, D] float64
    samples: Tensor,  # [M, *image]
    count: int,
) -> Tensor:  # [N, count] int64
    """The nearest samples in l2, without a table of all distances."""
    best = x.new_empty(len(x), 0)  # [N, <= count]
    place = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    for low in range(0, len(samples), REFERENCE_BATCH):
        part = _pixels(samples[low : low + REFERENCE_BATCH]).flatten(1)  # [m, D]
        rows = torch.arange(low, low + len(part), device=x.device).expand(len(x), -1)
        best, kept = torch.cat([best, torch.cdist(x, part)], 1).sort(dim=1, stable=True)
        place = torch.cat([place, rows], 1).gather(1, kept[:, :count])
        best = best[:, :count]
    return place


def _pixels(samples: Tensor) -> Tensor:
    """The samples in [0, 1], in float64."""
    return samples.double() / 255.0 if samples.dtype == torch.uint8 else samples.double()
