"""A known manifold: letters A to J in 23 fonts, moved by six affine parameters."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.manifolds.affine import moved
from hcnn_fast.manifolds.fonts import LETTERS, prototypes
from hcnn_fast.manifolds.manifold import Coded, LatentBox

Variant = Literal["easy", "moderate", "hard"]
Split = Literal["train", "test"]

PREFIX = "glyphs-"  # of the names of the data sets
IMAGES: dict[Split, int] = {"train": 40_000, "test": 10_000}
DRAWN = 2000  # images drawn at a time

# Half-widths of translation, shear, scale (around its middle) and rotation.
_RANGES: dict[Variant, tuple[float, float, tuple[float, float], float]] = {
    "easy": (0.1, 0.2, (0.9, 1.1), math.pi / 6),
    "moderate": (0.2, 0.4, (0.85, 1.15), math.pi / 3),
    "hard": (0.2, 0.5, (0.75, 1.15), math.pi / 2),
}


def latent_box(variant: Variant) -> LatentBox:
    """Ranges of the six parameters, in the order of `affine_matrix` (spec C.2).

    Raises:
        ValueError: no such variant.
    """
    if variant not in _RANGES:
        expected = ", ".join(get_args(Variant))
        raise ValueError(f"variant is {variant!r}, expected one of {expected}")
    translation, shear, (smallest, largest), rotation = _RANGES[variant]
    sides = (translation, translation, shear, shear)
    lower = torch.tensor([*(-side for side in sides), smallest, -rotation])  # [6]
    upper = torch.tensor([*sides, largest, rotation])  # [6]
    return LatentBox(lower, upper)


def decode_glyphs(
    code: Tensor,  # [B, 6]
    condition: Tensor,  # [B] int64, prototypes
) -> Tensor:  # [B, 1, 28, 28] in [0, 1], of the dtype of the codes
    """Prototypes under the affine maps of their codes; the letter is condition % 10."""
    shapes = prototypes().to(code)  # [P, 1, 28, 28]
    return moved(shapes[condition], code)


@dataclass(frozen=True)
class CodedGlyphs:
    """Images of glyphs and where they lie.

    Attributes:
        data: images and letters.
        coded: [N, 6] codes, uniform in the box, and [N] prototypes.
    """

    data: ImageDataset
    coded: Coded


def coded_glyphs(
    variant: Variant,
    split: Split,
    *,
    images: int | None = None,
    seed: int = 0,
) -> CodedGlyphs:
    """Random letters of random fonts with random codes.

    Both splits draw from the same fonts. Images are the decoded ones rounded to 8 bits, as any
    image file is: up to 1/510 off the manifold in each pixel.

    Args:
        variant: "easy", "moderate" or "hard", by the ranges of the codes.
        split: "train" or "test", drawn apart.
        images: how many; None: 40,000 or 10,000. Fewer are the first of more.
        seed: of all draws.

    Raises:
        ImportError: matplotlib or pillow is missing.
        ValueError: no such variant or split, or fewer than one image.
    """
    box = latent_box(variant)
    if split not in IMAGES:
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    count = IMAGES[split] if images is None else images
    if count < 1:
        raise ValueError(f"images is {count}, expected 1 or more")
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    draws = torch.rand(count, 7, generator=generator, dtype=torch.float64)  # [N, 7], row by row
    code = torch.lerp(box.lower.double(), box.upper.double(), draws[:, :6]).float()  # [N, 6]
    code = box.clamp(code)  # rounding
    condition = (draws[:, 6] * len(prototypes())).long()  # [N]
    pixels = torch.cat(
        [
            (decode_glyphs(some, shape) * 255.0).round().to(torch.uint8)
            for some, shape in zip(
                torch.split(code, DRAWN), torch.split(condition, DRAWN), strict=True
            )
        ]
    )  # [N, 1, 28, 28] uint8
    labels = condition % len(LETTERS)  # [N]
    data = ImageDataset(pixels, labels, LETTERS, f"{PREFIX}{variant}", split)
    return CodedGlyphs(data, Coded(code, condition))


class GlyphManifold:
    """The manifold of a variant, on which the images of some splits have been placed.

    Args:
        variant: which ranges of the codes are valid.
        known: images that `encode` will be asked about, with their codes.
    """

    def __init__(self, variant: Variant, *known: CodedGlyphs) -> None:
        self._box = latent_box(variant)
        self._code = torch.cat([glyphs.coded.code for glyphs in known])  # [N, 6]
        self._condition = torch.cat([glyphs.coded.condition for glyphs in known])  # [N]
        hashes = torch.cat([_hashes(glyphs.data.images) for glyphs in known])  # [N]
        self._hashes, self._order = hashes.sort()  # [N] both

    @property
    def box(self) -> LatentBox:
        """Where codes are valid."""
        return self._box

    def decode(
        self,
        code: Tensor,  # [B, 6]
        condition: Tensor,  # [B] int64
    ) -> Tensor:  # [B, 1, 28, 28]
        """See `decode_glyphs`."""
        return decode_glyphs(code, condition)

    def encode(
        self,
        images: Tensor,  # [B, 1, 28, 28] in [0, 1]
        labels: Tensor,  # [B] int64
    ) -> Coded:
        """Codes and prototypes of known images, found by their content.

        Raises:
            ValueError: an image is none of the known ones, as after mirroring or shifting.
        """
        hashes = _hashes((images.cpu() * 255.0).round().to(torch.uint8))  # [B]
        place = torch.searchsorted(self._hashes, hashes).clamp_max(len(self._hashes) - 1)  # [B]
        row = self._order[place]  # [B]
        known = (self._hashes[place] == hashes) & (self._condition[row] % 10 == labels.cpu())
        if not bool(known.all()):
            raise ValueError(
                f"{int((~known).sum())} of {len(images)} images are not among those whose codes"
                " are known; train without flip and shift"
            )
        code = self._code[row].to(images)  # [B, 6]
        return Coded(code, self._condition[row].to(images.device))


@functools.lru_cache(maxsize=2)
def known_glyphs(variant: Variant) -> GlyphManifold:
    """The manifold of the data set of a variant, all of whose training images are known."""
    return GlyphManifold(variant, coded_glyphs(variant, "train"))


def _hashes(
    images: Tensor,  # [N, 1, 28, 28] uint8
) -> Tensor:  # [N] int64
    return ops.content_hash(images.float())
