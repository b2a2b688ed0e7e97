"""`hcnn-fast serve`: a defended classifier over HTTP, on Ray Serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from hcnn_fast.cli.classifiers import load_classifier
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.interruption import ended_by_signals
from hcnn_fast.cli.sizes import parse_size
from hcnn_fast.config import SearchConfig
from hcnn_fast.scale.engine import Cluster, connected
from hcnn_fast.scale.serving import Limits, application, import_serve


def serve(
    model: Annotated[
        str, typer.Option(help="A shipped model, a .safetensors file, or module:factory.")
    ] = "fashion-adversarial",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for the model.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="Shape of an image, where the model has no card."),
    ] = None,
    radius: Annotated[float, typer.Option(help="l_inf radius that is searched.")] = 0.05,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 20,
    labels: Annotated[
        int | None, typer.Option(help="Try the so many likeliest labels; all if not given.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Objective that may be given up to stop early.")
    ] = 0.0,
    threshold: Annotated[
        float | None, typer.Option(help="Reject answers of less confidence.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The same.")] = 8000,
    batch: Annotated[
        int, typer.Option(min=1, help="Most images that are searched together.")
    ] = Limits.batch,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; more get 503.")
    ] = Limits.queue,
    body: Annotated[
        str, typer.Option(metavar="SIZE", help="Longest request; more gets 413.")
    ] = "8MiB",
    replicas: Annotated[int, typer.Option(min=1, help="Processes that search.")] = Limits.replicas,
    threads: Annotated[int, typer.Option(min=1, help="torch threads of each.")] = Limits.threads,
    gpus_per_replica: Annotated[
        float, typer.Option(min=0.0, help="GPUs of each, or a share; 0: CPU.")
    ] = 0.0,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster that runs, or auto; one here if not given."),
    ] = None,
) -> None:
    """Answer images over HTTP: POST a PNG, JPEG or .npy body to /, get JSON.

    The answer has label (-1 where rejected), class_name, confidence and accepted. GET /health says
    that the service is there, GET /metrics counts in Prometheus' form. Ctrl-C and SIGTERM
    end it. Other searches than MCN: `hcnn_fast.scale.serving.application`.
    """
    ray_serve = import_serve()
    config = SearchConfig.mcn(radius, steps=steps, labels=labels, tolerance=tolerance)
    limits = Limits(
        batch=batch,
        queue=queue,
        body=parse_size(body),
        replicas=replicas,
        threads=threads,
        gpus=gpus_per_replica,
    )
    classifier = load_classifier(model, checkpoint, torch.device("cpu"))
    served = application(
        classifier.model,
        config,
        shape=_shape(shape, classifier.shape),
        threshold=threshold,
        class_names=classifier.class_names,
        limits=limits,
    )
    # One CPU more than the replicas': of the door, which passes requests on.
    place = Cluster(replicas, address, threads, gpus_per_replica, spare_cpus=1)
    with connected(place):
        ray_serve.start(http_options={"host": host, "port": port})
        try:
            ray_serve.run(served, name="hcnn-fast")
            with ended_by_signals() as ended:
                print(f"listening on http://{host}:{port}", file=sys.stderr, flush=True)
                ended.wait()
        finally:
            ray_serve.shutdown()


def _shape(text: str | None, known: tuple[int, ...] | None) -> tuple[int, int, int]:
    """The shape that was given, or else the model's own."""
    if text is None:
        if known is None or len(known) != 3:
            raise WrongUsage("the model does not say what images it takes; give --shape C,H,W")
        return known[0], known[1], known[2]
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise WrongUsage(f"--shape is {text!r}, expected C,H,W such as 1,28,28")
    return int(parts[0]), int(parts[1]), int(parts[2])
