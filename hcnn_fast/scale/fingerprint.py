"""What decides the rows of a job, so that a resume continues the same one or none."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from hcnn_fast import backends
from hcnn_fast._version import __version__
from hcnn_fast.models.identity import weights_hash
from hcnn_fast.scale.defend_job import DefendJob


def fingerprint(job: DefendJob) -> dict[str, Any]:
    """A job's weights, configuration, data, versions, and what else its rounding depends on.

    The number of workers and Ray's blocks are left out: rows do not depend on them.
    """
    return {
        "package": __version__,
        "torch": torch.__version__,
        "model": {
            "name": job.model_name,
            "structure": hashlib.blake2b(repr(job.model).encode(), digest_size=16).hexdigest(),
            "weights": weights_hash(job.model),
            "class_names": list(job.class_names or ()),
        },
        "config": job.config.to_dict(),
        "backend": backends.resolve(job.config.backend, job.device),
        "threshold": job.threshold,
        "device": job.device,
        "threads": job.threads,
        "images": job.parts.images,
        "chunk": job.parts.chunk,
        "data": {"reader": type(job.reader).__name__, **job.reader.identity()},
    }
