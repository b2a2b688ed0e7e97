"""Ray: found or started, and Ray Data's pool of workers run over the parts that are missing."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hcnn_fast.failures import FailedRun
from hcnn_fast.scale.packing import Packed
from hcnn_fast.scale.worker import Job, PartWorker

BLOCKS = 20_000  # more of them cost the driver more than they balance


@dataclass(frozen=True)
class Cluster:
    """Where the work goes.

    Attributes:
        workers: processes that search; chunks are handed out as they ask for them.
        address: a running Ray cluster, "auto" for the one of this machine; None: the one that this
            process is connected to, or else one of this machine alone that ends with the work.
        threads: torch threads of a worker, and CPUs that Ray keeps free for it. Rounding may depend
            on their number.
        gpus_per_worker: GPUs of a worker, or a share of one; 0: it searches on the CPU.
        spare_cpus: CPUs besides those of the workers, where a cluster is started here.
        chunks_per_block: chunks that Ray Data hands out together. Rows do not depend on it.

    Raises:
        ValueError: a field is out of its range.
    """

    workers: int = 1
    address: str | None = None
    threads: int = 1
    gpus_per_worker: float = 0.0
    spare_cpus: int = 0
    chunks_per_block: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "chunks_per_block"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected an int >= 1")
        gpus = self.gpus_per_worker
        if not 0.0 <= gpus < float("inf") or (gpus > 1.0 and gpus != int(gpus)):
            raise ValueError(f"gpus_per_worker is {gpus!r}, expected 0, a share of 1, or an int")

    @property
    def device(self) -> str:
        """Where a worker searches."""
        return "cuda" if self.gpus_per_worker else "cpu"


def import_ray() -> Any:
    """The module ray, with ray.data.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError('ray is missing: pip install "hcnn_fast[ray]"') from error
    return ray


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to a cluster that can hold the workers; a connection made here is ended.

    Raises:
        ImportError: ray is not installed.
        FailedRun: no cluster at that address, or one that is too small.
    """
    ray = import_ray()
    made = not ray.is_initialized()
    if made:
        options: dict[str, Any] = {"address": cluster.address}
        if cluster.address is None:
            options = {"address": "local", "include_dashboard": False}
            # Ray would give its workers the least priority; they are to have the command's.
            options["_system_config"] = {"worker_niceness": 0}
            options["num_cpus"] = cluster.workers * cluster.threads + cluster.spare_cpus
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise FailedRun(f"no Ray cluster at {cluster.address}: {error}") from error
    try:
        _check_room(ray, cluster)
        yield ray
    finally:
        if made:
            ray.shutdown()


def _check_room(ray: Any, cluster: Cluster) -> None:
    """Ray waits for ever for what a cluster does not have."""
    has = ray.cluster_resources()
    for kind, each in (("CPU", float(cluster.threads)), ("GPU", float(cluster.gpus_per_worker))):
        needed = cluster.workers * each
        if has.get(kind, 0.0) < needed:
            raise FailedRun(
                f"{cluster.workers} workers need {needed:g} {kind}s and the Ray cluster has"
                f" {has.get(kind, 0.0):g}; ask for fewer workers"
            )


def run_parts(
    cluster: Cluster,
    job: Job,
    missing: Sequence[int],
    advance: Callable[[int], object],
) -> None:
    """Make the parts that are missing, in workers, each of which stores what it makes.

    Ray starts a worker anew that has died, and gives it the part that was lost.

    Args:
        cluster: where the work goes.
        job: the work.
        missing: where the parts begin that are not stored yet; without any, Ray is left alone.
        advance: is told numbers of images that are done.

    Raises:
        ImportError: ray is not installed.
        FailedRun: no cluster at that address, one that is too small, or one that gave up.
        Exception: what a worker failed with.
    """
    if not missing:
        return
    blocks = min(BLOCKS, -(-len(missing) // cluster.chunks_per_block))
    with connected(cluster) as ray, _quiet_data_context(ray):
        done = ray.data.from_items(
            [{"first": first} for first in missing], override_num_blocks=blocks
        ).map_batches(
            PartWorker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(Packed.of(job, stored=True),),
            compute=ray.data.ActorPoolStrategy(size=min(cluster.workers, len(missing))),
            num_cpus=cluster.threads,
            num_gpus=cluster.gpus_per_worker or None,
        )
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="numpy"):
                advance(int(batch["rows"].sum()))
                for failure in filter(None, batch["failure"]):
                    raise pickle.loads(failure)
        except ray.exceptions.RayError as error:
            raise FailedRun(f"Ray gave up: {error}") from error


@contextmanager
def _quiet_data_context(ray: Any) -> Iterator[None]:
    """Settings of Ray Data, and its log from errors up; the caller's return after the block."""
    context = ray.data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
    }
    before = {name: getattr(context, name) for name in settings}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
