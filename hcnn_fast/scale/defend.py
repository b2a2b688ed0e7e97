"""Defended inference over a data set on Ray Data, in a folder that a later run goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.jobs.defend_work import DefendTask
from hcnn_fast.jobs.inputs import InputOptions
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale.arguments import Images, classifier_of, source_of
from hcnn_fast.scale.engine import Cluster, import_ray
from hcnn_fast.scale.row_job import RowJob
from hcnn_fast.scale.stored_rows import StoredRows, run_job


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
    classifier, name = classifier_of(model)
    options = replace(reading or InputOptions(), bounds=config.bounds, skip_bad=True)
    source = source_of(dataset, config, options)
    task = DefendTask(
        model=classifier,
        model_name=name,
        class_names=class_names or source.class_names,
        config=config,
        threshold=threshold,
    )
    job = RowJob.over(task, source, output, place)
    return run_job(job, place, resume=resume, advance=advance)
