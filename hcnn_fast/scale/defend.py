"""Defended inference over a data set on Ray Data, in a folder that a later run goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from hcnn_fast import models
from hcnn_fast.config import SearchConfig
from hcnn_fast.data import ImageDataset
from hcnn_fast.engine.inputs import check_images
from hcnn_fast.jobs.defend_work import DefendTask
from hcnn_fast.jobs.inputs import ImageSource, InputOptions, open_input
from hcnn_fast.jobs.parts import RowParts
from hcnn_fast.jobs.readers import DatasetReader, TensorReader, scaled
from hcnn_fast.jobs.work import CHUNK
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale.engine import Cluster, import_ray
from hcnn_fast.scale.row_job import RowJob
from hcnn_fast.scale.stored_rows import StoredRows, run_job

Images = str | Path | ImageDataset | Tensor | numpy.ndarray[Any, Any]


def defend(
    dataset: Images,
    model: nn.Module | str,
    config: SearchConfig,
    *,
    output: str | Path,
    threshold: float | None = None,
    cluster: Cluster | None = None,
    reading: InputOptions | None = None,
    class_names: tuple[str, ...] | None = None,
    resume: Resume = "automatic",
    advance: Callable[[int], object] | None = None,
) -> StoredRows:
    """Predict, or reject, at the most confident point around each image, on workers of Ray.

    The unit of work is a chunk of `jobs.work.CHUNK` consecutive images, the same as in
    `hcnn-fast defend` in one process, so the rows are the same to the bit on one kind of processor
    and with as many threads, however many workers there are. On a GPU give `config.batch_size`: a
    batch that is planned depends on the memory that happens to be free. A chunk is stored when it
    is made; the same call goes on after whatever ended it.

    Args:
        dataset: images [N, *image] within the bounds, or uint8 [N, C, H, W]; an `ImageDataset`; or
            what `hcnn-fast defend` reads, where the workers must find it under the same name. An
            image that cannot be read becomes a row with its error.
        model: classifier, or a name that `models.load` knows.
        config: the search.
        output: folder of the rows, of `run.json` (the fingerprint) and of a lock; seen by all
            workers under this name.
        threshold: smallest confidence that is accepted; None accepts all but infeasible NCN.
        cluster: workers and where they are; None: one, on this machine.
        reading: how files are read; the bounds are those of `config`.
        class_names: names of the classes; None: those that the data set knows.
        resume: "always": the folder must hold a run; "never": it may not.
        advance: is told numbers of images that are done.

    Raises:
        ImportError: ray or pyarrow is not installed; says how to get it.
        TypeError, ValueError: an argument is not usable, or `output` holds another run.
        FailedRun: the cluster cannot be reached or is too small, or a disk failed; what is stored
            stays, and the same call goes on.
    """
    import_ray()
    place = cluster or Cluster()
    if isinstance(model, str):
        name, classifier = model, models.load(model)
    else:
        name, classifier = type(model).__name__, model
    options = replace(reading or InputOptions(), bounds=config.bounds, skip_bad=True)
    source = source_of(dataset, config, options)
    task = DefendTask(
        model=classifier,
        model_name=name,
        class_names=class_names or source.class_names,
        config=config,
        threshold=threshold,
    )
    job = RowJob(
        task=task,
        reader=source.reader,
        parts=RowParts(Path(output).absolute(), source.count, CHUNK, task.columns),
        device=place.device,
        threads=place.threads,
    )
    return run_job(job, place, resume=resume, advance=advance)


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
