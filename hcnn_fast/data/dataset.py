"""`ImageDataset`: labelled images in memory, the one form in which data enter the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageDataset:
    """Images and labels of one split of a data set.

    Attributes:
        images: [N, C, H, W] uint8.
        labels: [N] int64, index into class_names.
        class_names: name of every class.
        name: name of the data set, such as "fashion-mnist".
        split: "train" or "test".
    """

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64
    class_names: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            found = f"{list(self.images.shape)} {self.images.dtype}"
            raise ValueError(f"images is {found}, expected [N, C, H, W] uint8")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            found = f"{list(self.labels.shape)} {self.labels.dtype}"
            raise ValueError(f"labels is {found}, expected [{len(self.images)}] int64")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            found = f"in [{int(self.labels.min())}, {int(self.labels.max())}]"
            raise ValueError(f"labels is {found}, expected in [0, {self.classes - 1}]")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def scaled(self) -> Tensor:  # [N, C, H, W] float32
        """All images as float32 in [0, 1]."""
        return self.images.to(torch.float32) / 255.0

    def first(self, count: int | None) -> ImageDataset:
        """The first `count` images (all for None); fewer where there are fewer."""
        if count is None:
            return self
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count is {count!r}, expected None or an int >= 1")
        return ImageDataset(
            self.images[:count], self.labels[:count], self.class_names, self.name, self.split
        )
