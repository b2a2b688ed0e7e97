"""The work of `defend`: predictions at the most confident point around each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hcnn_fast import backends
from hcnn_fast.config import SearchConfig
from hcnn_fast.defense import Defense
from hcnn_fast.jobs.readers import Chunk
from hcnn_fast.jobs.rows import COLUMNS, rows_of
from hcnn_fast.jobs.work import BaseModel, beside_rows, placed


@dataclass(frozen=True)
class DefendTask:
    """A search with its model; see `work.RowTask`.

    Attributes:
        model: classifier.
        model_name: what messages call it.
        class_names: names of its classes, or None.
        config: the search.
        threshold: smallest confidence that is accepted, or None.

    Raises:
        TypeError, ValueError: as `Defense`.
    """

    model: nn.Module
    model_name: str
    class_names: tuple[str, ...] | None
    config: SearchConfig
    threshold: float | None

    kind: ClassVar[str] = "defend"
    columns: ClassVar[Mapping[str, type]] = COLUMNS

    def __post_init__(self) -> None:
        Defense(self.model, self.config, self.threshold)  # refuses what cannot be

    def settings(self, device: str) -> dict[str, Any]:
        """See `work.RowTask`."""
        return {
            "class_names": list(self.class_names or ()),
            "config": self.config.to_dict(),
            "backend": backends.resolve(self.config.backend, device),
            "threshold": self.threshold,
        }

    def work(self, device: torch.device) -> DefendWork:
        """See `work.RowTask`."""
        defense = Defense(self.model.eval().to(device), self.config, self.threshold)
        return DefendWork(defense, device, self.class_names, self.model_name)


class DefendWork:
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
        self._base = BaseModel(defense.model, model_name)
        self._class_names = class_names

    def rows(self, first: int, chunk: Chunk) -> tuple[list[dict[str, Any]], Tensor]:
        """See `work.RowWork`.

        Raises:
            WrongUsage: the model cannot read the first images that it gets.
            Exception: as `hcnn_fast.search`.
        """
        images = placed(chunk.images, self._device)  # [m, *image]
        base = self._base.logits(images)  # [m, C]
        prediction = self._defense.predict(images)
        rows = rows_of(first, chunk, prediction, base, self._class_names)
        return rows, beside_rows(prediction.search.point, chunk)
