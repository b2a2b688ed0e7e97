"""What is done to a chunk of images, the same wherever it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hcnn_fast.defense import Defense
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.failures import WrongUsage
from hcnn_fast.jobs.readers import Chunk
from hcnn_fast.jobs.rows import rows_of

# Images in memory, and between two writes. A chunk begins at a multiple of it, in every engine: a
# model's arithmetic may round otherwise in a batch of other images or of another size.
CHUNK = 64


class ChunkWork:
    """The rows of a chunk, from a defence.

    Args:
        defense: the search, with its model on `device`.
        device: where the images go.
        class_names: names of the classes, or None.
        model_name: what messages call the model.
    """

    def __init__(
        self,
        defense: Defense,
        device: torch.device,
        class_names: Sequence[str] | None,
        model_name: str,
    ) -> None:
        self._defense, self._device = defense, device
        self._class_names, self._model_name = class_names, model_name
        self._fits = False

    def rows(self, first: int, chunk: Chunk) -> tuple[list[dict[str, Any]], Tensor]:
        """One row for every image of a chunk that begins at index `first`, and their points.

        Returns:
            The rows, and [n, *image] points found, NaN where an image could not be read.

        Raises:
            WrongUsage: the model cannot read the first images that it gets.
            Exception: as `hcnn_fast.search`.
        """
        # Always into new memory, which torch aligns: where vectors begin may change the rounding.
        images = chunk.images.to(self._device, copy=True)  # [m, *image]
        base = self._base_logits(images)  # [m, C]
        prediction = self._defense.predict(images)
        found = prediction.search.point  # [m, *image]
        points = found.new_full((len(chunk.names), *found.shape[1:]), torch.nan)  # [n, *image]
        points[[error is None for error in chunk.errors]] = found
        return rows_of(first, chunk, prediction, base, self._class_names), points

    def _base_logits(self, images: Tensor) -> Tensor:
        """The model's answers; its failure on the first images means that they do not fit it."""
        if not len(images):
            return images.new_zeros(0, 1)
        try:
            with torch.inference_mode():
                logits = as_logits(self._defense.model(images), len(images))
        except RuntimeError as error:
            if self._fits or "out of memory" in str(error):
                raise
            raise WrongUsage(
                f"model {self._model_name} cannot read images of shape"
                f" {list(images.shape[1:])}: {error}"
            ) from error
        self._fits = True
        return logits


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads in torch's operations while the block runs; None leaves their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
