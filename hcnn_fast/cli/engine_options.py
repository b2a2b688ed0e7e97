"""Options of commands that run in this process or on a cluster, and the cluster they ask for."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import typer

from hcnn_fast.cli.classifiers import check_backend, choose_device
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.scale import Cluster
from hcnn_fast.scale.engine import import_ray

PANEL = "Engine"
Engine = Literal["local", "ray"]

EngineOption = Annotated[
    Engine,
    typer.Option(
        help="ray: workers of Ray, which store what they make in a folder; the same command goes on"
        " after whatever ended it. Needs hcnn_fast[ray].",
        rich_help_panel=PANEL,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="A Ray cluster that runs, or auto; one on this machine if not given.",
        rich_help_panel=PANEL,
    ),
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="Processes that work.", rich_help_panel=PANEL)
]
GpusOption = Annotated[
    float, typer.Option(min=0.0, help="GPUs, or a share; 0: CPU.", rich_help_panel=PANEL)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="torch threads; its own number if not given, 1 for a worker of Ray.",
        rich_help_panel=PANEL,
    ),
]


def chosen_cluster(
    engine: Engine,
    address: str | None,
    workers: int,
    threads: int | None,
    gpus_per_worker: float,
    device: str,
) -> Cluster | None:
    """The cluster that was asked for; None: this process.

    Raises:
        ImportError: ray is not installed; says how to get it.
        WrongUsage: an option says nothing to the engine.
        ValueError: a number is out of its range.
    """
    if engine == "local":
        if address is not None or workers != 1 or gpus_per_worker:
            raise WrongUsage("--address, --workers and --gpus-per-worker need --engine ray")
        return None
    if device != "auto":
        raise WrongUsage("--device is for --engine local; --gpus-per-worker says where Ray works")
    import_ray()
    return Cluster(
        workers=workers,
        address=address,
        threads=1 if threads is None else threads,
        gpus_per_worker=gpus_per_worker,
    )


def chosen_device(cluster: Cluster | None, device: str, backend: str) -> torch.device:
    """Where this process works, and whether the backend can: on the CPU for workers without GPUs.

    Raises:
        WrongUsage: no such device here, or the backend cannot run on it.
    """
    on_processors = cluster is not None and not cluster.gpus_per_worker
    where = choose_device("cpu" if on_processors else device)
    check_backend(backend, where)
    return where
