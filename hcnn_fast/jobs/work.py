"""What is done to a chunk of images, the same wherever it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hcnn_fast.engine.inputs import Classifier, as_logits
from hcnn_fast.failures import WrongUsage
from hcnn_fast.jobs.readers import Chunk

# Images in memory, and between two writes. A chunk begins at a multiple of it, in every engine: a
# model's arithmetic may round otherwise in a batch of other images or of another size.
CHUNK = 64


class RowWork(Protocol):
    """What makes rows, ready to run on its device."""

    def rows(self, first: int, chunk: Chunk) -> tuple[list[dict[str, Any]], Tensor]:
        """One row for every image of a chunk that begins at index `first`, and their points.

        Returns:
            The rows, and [n, *image] points found, NaN where an image could not be read.

        Raises:
            WrongUsage: the model cannot read the first images that it gets.
        """


class RowTask(Protocol):
    """Everything that rows of images are made by, apart from where; can be pickled."""

    @property
    def kind(self) -> str:
        """What it is called in the fingerprint of a run."""

    @property
    def columns(self) -> Mapping[str, type]:
        """Names and types of the values of a row."""

    @property
    def model(self) -> nn.Module:
        """The classifier."""

    @property
    def model_name(self) -> str:
        """What messages call it."""

    def settings(self, device: str) -> dict[str, Any]:
        """What decides the rows besides the model and the images, as plain values."""

    def work(self, device: torch.device) -> RowWork:
        """Get ready to make rows there."""


class BaseModel:
    """The base model's answers, and a sentence where images do not fit it.

    Args:
        model: classifier, in eval mode.
        name: what messages call it.
    """

    def __init__(self, model: Classifier, name: str) -> None:
        self.model, self.name = model, name
        self._fits = False

    def logits(self, images: Tensor) -> Tensor:  # [m, *image] -> [m, C]
        """The model's logits; its failure on the first images means that they do not fit it.

        Raises:
            WrongUsage: the model cannot read the first images that it gets.
        """
        if not len(images):
            return images.new_zeros(0, 1)
        try:
            with torch.no_grad():
                logits = as_logits(self.model(images), len(images))
        except RuntimeError as error:
            if self._fits or "out of memory" in str(error):
                raise
            raise WrongUsage(
                f"model {self.name} cannot read images of shape {list(images.shape[1:])}: {error}"
            ) from error
        self._fits = True
        return logits


def placed(
    images: Tensor,  # [m, *image] float32
    device: torch.device,
) -> Tensor:  # [m, *image]
    """A chunk's images on a device.

    Always in new memory, which torch aligns: where vectors begin may change the rounding.
    """
    return images.to(device, copy=True)


def beside_rows(
    found: Tensor,  # [m, *image]
    chunk: Chunk,
) -> Tensor:  # [n, *image]
    """The readable images' points beside the rows of the chunk, NaN where there is none."""
    points = found.new_full((len(chunk.names), *found.shape[1:]), torch.nan)  # [n, *image]
    points[[error is None for error in chunk.errors]] = found
    return points


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads in torch's operations while the block runs; None leaves their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
