"""What a manifold of images is: latent codes, a decoder, and the box in which codes are valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class LatentBox:
    """Smallest and largest valid value of every latent coordinate.

    Attributes:
        lower: [Z].
        upper: [Z], nowhere below `lower`.

    Raises:
        ValueError: the shapes differ, or a lower bound is above its upper one.
    """

    lower: Tensor  # [Z]
    upper: Tensor  # [Z]

    def __post_init__(self) -> None:
        if self.lower.ndim != 1 or self.lower.shape != self.upper.shape:
            shapes = f"{list(self.lower.shape)} and {list(self.upper.shape)}"
            raise ValueError(f"lower and upper have shapes {shapes}, expected [Z] both")
        if not bool((self.lower <= self.upper).all()):  # NaN fails too
            raise ValueError(f"lower is {self.lower}, expected at most upper {self.upper}")

    def like(self, code: Tensor) -> LatentBox:
        """The box in the dtype and on the device of some codes."""
        return LatentBox(self.lower.to(code), self.upper.to(code))

    def clamp(
        self,
        code: Tensor,  # [B, Z]
    ) -> Tensor:  # [B, Z]
        """The nearest codes in the box."""
        return code.clamp(self.lower, self.upper)


@dataclass(frozen=True)
class Coded:
    """Where images lie on a manifold.

    Attributes:
        code: [B, Z] latent coordinates, those that an attack may move.
        condition: [B] int64, what no attack may move and what decides the class: the class itself,
            or one of several shapes of it.
    """

    code: Tensor  # [B, Z]
    condition: Tensor  # [B] int64


class Decoder(Protocol):
    """Images as a differentiable function of a code, given what the class is."""

    def __call__(
        self,
        code: Tensor,  # [B, Z]
        condition: Tensor,  # [B] int64
    ) -> Tensor:  # [B, *image]
        """The images of some codes, row by row."""
        ...


class Manifold(Protocol):
    """Images of several classes, each on its own low-dimensional surface."""

    @property
    def box(self) -> LatentBox:
        """Where codes are valid."""
        ...

    def decode(
        self,
        code: Tensor,  # [B, Z]
        condition: Tensor,  # [B] int64
    ) -> Tensor:  # [B, *image] in [0, 1]
        """The images of some codes, row by row, differentiable in the codes."""
        ...

    def encode(
        self,
        images: Tensor,  # [B, *image] in [0, 1]
        labels: Tensor,  # [B] int64
    ) -> Coded:
        """Where images of known classes lie.

        Raises:
            ValueError: they cannot be placed on the manifold.
        """
        ...
