"""A flat manifold and two circles, of which everything is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.manifolds.manifold import LatentBox

Z, D = 3, 12


@dataclass(frozen=True)
class LinearManifold:
    """dec(z) = A z + c, the same for every condition."""

    basis: Tensor  # [D, Z]
    centre: Tensor  # [D]

    @classmethod
    def random(cls, seed: int = 0) -> LinearManifold:
        generator = torch.Generator().manual_seed(seed)
        basis = torch.randn(D, Z, generator=generator, dtype=torch.float64)
        return cls(basis, torch.randn(D, generator=generator, dtype=torch.float64))

    def __call__(self, code: Tensor, condition: Tensor) -> Tensor:
        return code @ self.basis.T + self.centre


def two_classes(weight: Tensor, bias: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Logits (-f, f) / 2 of f(x) = w . x + b: class 1 where f > 0."""

    def logits(x: Tensor) -> Tensor:
        f = x @ weight + bias
        return torch.stack([-f, f], 1) / 2

    return logits


def wide_box(size: float = 100.0) -> LatentBox:
    side = torch.full((Z,), size, dtype=torch.float64)
    return LatentBox(-side, side)


RADII = torch.tensor([1.0, 2.0], dtype=torch.float64)  # of the circles of classes 0 and 1


def circles(code: Tensor, condition: Tensor) -> Tensor:
    """dec(phi) = r_y (cos phi, sin phi), phi the only coordinate."""
    return RADII[condition][:, None] * torch.cat([torch.cos(code), torch.sin(code)], 1)
