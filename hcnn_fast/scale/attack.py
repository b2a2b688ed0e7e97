"""Attacks over a data set on Ray Data, in a folder that a later run goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.jobs.attack_work import AttackTask
from hcnn_fast.jobs.inputs import InputOptions
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale.arguments import Images, classifier_of, source_of
from hcnn_fast.scale.engine import Cluster, import_ray
from hcnn_fast.scale.row_job import RowJob
from hcnn_fast.scale.stored_rows import StoredRows, run_job


def attack(
    dataset: Images,
    model: nn.Module | str,
    plan: AttackPlan,
    *,
    output: str | Path,
    cluster: Cluster | None = None,
    reading: InputOptions | None = None,
    resume: Resume = "automatic",
    advance: Callable[[int], object] | None = None,
) -> StoredRows:
    """Say for every image whether a model can be made wrong about it, on workers of Ray.

    Rows and chunks are those of `hcnn-fast attack` in one process, and what is said of `defend`
    about their equality, the batch size on a GPU and going on holds here too.

    Args:
        dataset: as for `defend`; without true labels the model's own answers are attacked.
        model: classifier, or a name that `models.load` knows.
        plan: the attacks.
        output: folder of the rows, of `run.json` (the fingerprint) and of a lock; seen by all
            workers under this name.
        cluster: workers and where they are; None: one, on this machine.
        reading: how files are read; the bounds are those of `plan`.
        resume: "always": the folder must hold a run; "never": it may not.
        advance: is told numbers of images that are done.

    Raises:
        ImportError: ray or pyarrow is not installed; says how to get it.
        TypeError, ValueError: an argument is not usable, or `output` holds another run.
        FailedRun: the cluster cannot be reached or is too small, or a disk failed; what is stored
            stays, and the same call goes on.
    """
    import_ray()
    classifier, name = classifier_of(model)
    options = replace(reading or InputOptions(), bounds=plan.bounds, skip_bad=True)
    source = source_of(dataset, SearchConfig.mcn(plan.radius, bounds=plan.bounds), options)
    place = cluster or Cluster()
    job = RowJob.over(AttackTask(classifier, name, plan), source, output, place)
    return run_job(job, place, resume=resume, advance=advance)
