"""Data sets and models as jobs on Ray take them from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from hcnn_fast import models
from hcnn_fast.config import SearchConfig
from hcnn_fast.data import ImageDataset
from hcnn_fast.engine.inputs import check_images
from hcnn_fast.jobs.inputs import ImageSource, InputOptions, open_input
from hcnn_fast.jobs.readers import DatasetReader, TensorReader, scaled

Images = str | Path | ImageDataset | Tensor | numpy.ndarray[Any, Any]


def classifier_of(model: nn.Module | str) -> tuple[nn.Module, str]:
    """A classifier, or the one that `models.load` knows by that name; and what messages call it.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `models.load`.
    """
    if isinstance(model, str):
        return models.load(model), model
    return model, type(model).__name__


def source_of(dataset: object, config: SearchConfig, options: InputOptions) -> ImageSource:
    """What a data set given as text, path, array, tensor or `ImageDataset` holds.

    Raises:
        TypeError, ValueError: it is none of these, or not usable.
    """
    if isinstance(dataset, (str, Path)):
        return open_input(str(dataset), options)
    if isinstance(dataset, ImageDataset):
        shape = tuple(dataset.images.shape[1:])
        reader = DatasetReader(dataset, config.bounds)
        return ImageSource(len(dataset), shape, dataset.class_names, reader, dataset=dataset)
    images = torch.from_numpy(dataset) if isinstance(dataset, numpy.ndarray) else dataset
    if not isinstance(images, Tensor):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}, expected a path, NAME:SPLIT, an ImageDataset,"
            " an array or a tensor"
        )
    if images.dtype == torch.uint8:
        images = scaled(images, config.bounds)
    checked = check_images(images, config).cpu()  # [N, *image]
    return ImageSource(len(checked), tuple(checked.shape[1:]), None, TensorReader(checked, "array"))
