"""Chunks of images by their place in the input: what travels to the processes that search them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hcnn_fast.data import ImageDataset
from hcnn_fast.failures import FailedRun, WrongUsage
from hcnn_fast.jobs.array_files import ArrayFile, OpenArray
from hcnn_fast.jobs.image_files import ImageFormat, read_image

HASHED_BYTES = 1 << 24  # read at a time


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of an input; those that could not be read are missing from `images`.

    Attributes:
        names: [n] file name, or the name of the data set or array.
        errors: [n] why an image could not be read; None where it could.
        images: [m, *image] float32, the m readable ones.
        targets: [n] true label where known, else None.
    """

    names: tuple[str, ...]
    errors: tuple[str | None, ...]
    images: Tensor  # [m, *image] float32
    targets: tuple[int | None, ...]


class ChunkReader(Protocol):
    """Some images, any consecutive ones of which can be read; can be pickled."""

    def read(self, first: int, count: int) -> Chunk:
        """The images from `first` on, `count` of them, all of which exist."""

    def identity(self) -> dict[str, Any]:
        """What tells these images from others, as plain values: contents where that is cheap."""


def scaled(
    images: Tensor,  # [n, C, H, W] uint8
    bounds: tuple[float, float],
) -> Tensor:  # [n, C, H, W] float32
    """Grey levels 0 to 255 as values of the model's input."""
    low, high = bounds
    return (images.float() / 255.0).mul_(high - low).add_(low).clamp_(low, high)


@dataclass(frozen=True)
class DatasetReader:
    """The images of a data set in memory."""

    dataset: ImageDataset
    bounds: tuple[float, float]

    def read(self, first: int, count: int) -> Chunk:
        """See `ChunkReader`."""
        images = scaled(self.dataset.images[first : first + count], self.bounds)
        targets = tuple(self.dataset.labels[first : first + count].tolist())
        return Chunk((self.dataset.name,) * count, (None,) * count, images, targets)

    def identity(self) -> dict[str, Any]:
        """See `ChunkReader`."""
        tensors = (self.dataset.images, self.dataset.labels)
        return {"name": self.dataset.name, "content": digest_of(*tensors)}


@dataclass(frozen=True)
class TensorReader:
    """The images of a tensor in memory, float32 within the bounds."""

    images: Tensor  # [N, *image]
    name: str

    def read(self, first: int, count: int) -> Chunk:
        """See `ChunkReader`."""
        images = self.images[first : first + count]
        return Chunk((self.name,) * count, (None,) * count, images, (None,) * count)

    def identity(self) -> dict[str, Any]:
        """See `ChunkReader`."""
        return {"name": self.name, "content": digest_of(self.images)}


class ArrayReader:
    """The images of an array file; where bad ones are not skipped, they end the reading."""

    def __init__(self, array: ArrayFile, bounds: tuple[float, float], skip_bad: bool) -> None:
        self.array, self.bounds, self.skip_bad = array, bounds, skip_bad
        self._open: OpenArray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}  # every process opens the file itself

    def read(self, first: int, count: int) -> Chunk:
        """See `ChunkReader`.

        Raises:
            FailedRun: the file ends early or is corrupt.
            WrongUsage: a value is not finite or outside the bounds.
        """
        if self._open is None:
            self._open = OpenArray(self.array)
        block = self._open.rows(first, count)
        images, faults = self.array.read(block, self.bounds)
        errors = tuple(
            None if fault is None else f"{self.array.label}: image {first + row} {fault}"
            for row, fault in enumerate(faults)
        )
        bad = [error for error in errors if error is not None]
        if bad and not self.skip_bad:
            raise WrongUsage(bad[0])
        images = images[[error is None for error in errors]] if bad else images
        return Chunk((self.array.label,) * count, errors, images, (None,) * count)

    def identity(self) -> dict[str, Any]:
        """See `ChunkReader`."""
        array = self.array
        return {
            "name": array.label,
            "layout": array.layout,
            "bounds": list(self.bounds),
            "content": digest_of_file(array.path),
        }


@dataclass(frozen=True)
class FilesReader:
    """Image files; where bad ones are not skipped, they end the reading.

    Attributes:
        paths: the files.
        names: what the rows call them.
        form: what they must become, of a known shape.
        skip_bad: report unreadable images instead of stopping at them.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    form: ImageFormat
    skip_bad: bool

    def read(self, first: int, count: int) -> Chunk:
        """See `ChunkReader`.

        Raises:
            FailedRun, WrongUsage: as `image_files.read_image`, where bad images are not skipped.
        """
        images: list[Tensor] = []
        errors: list[str | None] = []
        for path in self.paths[first : first + count]:
            try:
                images.append(read_image(path, self.form))
                errors.append(None)
            except (FailedRun, WrongUsage) as error:
                if not self.skip_bad:
                    raise
                errors.append(str(error))
        assert self.form.shape is not None
        stacked = torch.stack(images) if images else torch.empty(0, *self.form.shape)
        return Chunk(
            self.names[first : first + count], tuple(errors), stacked, (None,) * len(errors)
        )

    def identity(self) -> dict[str, Any]:
        """See `ChunkReader`: names and sizes of the files, whose contents are not read for it."""
        digest = hashlib.blake2b(digest_size=16)
        for path, name in zip(self.paths, self.names, strict=True):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        form = self.form
        return {
            "shape": list(form.shape or ()),
            "bounds": list(form.bounds),
            "resize": form.resize,
            "convert": form.convert,
            "files": digest.hexdigest(),
        }


def digest_of(*tensors: Tensor) -> str:
    """A hash of shapes, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        dense = tensor.detach().cpu().contiguous()
        digest.update(f"{list(dense.shape)} {dense.dtype}".encode())
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """A hash of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()
