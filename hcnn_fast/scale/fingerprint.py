"""What decides the rows of a job, so that a resume continues the same one or none."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from hcnn_fast._version import __version__
from hcnn_fast.models.identity import weights_hash
from hcnn_fast.scale.row_job import RowJob


def fingerprint(job: RowJob) -> dict[str, Any]:
    """A job's weights, settings, data, versions, and what else its rounding depends on.

    The number of workers and Ray's blocks are left out: rows do not depend on them.
    """
    task = job.task
    return {
        "package": __version__,
        "torch": torch.__version__,
        "job": task.kind,
        "model": {
            "name": task.model_name,
            "structure": hashlib.blake2b(repr(task.model).encode(), digest_size=16).hexdigest(),
            "weights": weights_hash(task.model),
        },
        **task.settings(job.device),
        "device": job.device,
        "threads": job.threads,
        "images": job.parts.images,
        "chunk": job.parts.chunk,
        "data": {"reader": type(job.reader).__name__, **job.reader.identity()},
    }
