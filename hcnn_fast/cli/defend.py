"""`hcnn-fast defend`: predictions at the most confident point around each image, as rows."""

from __future__ import annotations

from typing import Annotated

import typer

from hcnn_fast.cli.defend_run import Calibration, DefendRequest, run_defend
from hcnn_fast.cli.engine_options import (
    AddressOption,
    EngineOption,
    GpusOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
    chosen_device,
)
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.input_options import (
    SEARCH,
    BackendOption,
    BatchSizeOption,
    BoundsOption,
    CheckpointOption,
    CompileOption,
    ConvertOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    JsonOption,
    KeyOption,
    LayoutOption,
    LimitOption,
    ModelOption,
    OutputOption,
    PointsOption,
    QuietOption,
    ResizeOption,
    ResumeOption,
    SkipBadOption,
    SourceArgument,
    check_results,
)
from hcnn_fast.cli.row_run import print_report
from hcnn_fast.cli.sizes import parse_size
from hcnn_fast.config import Norm, Objective, Precision, Schedule, SearchConfig
from hcnn_fast.jobs.inputs import InputOptions

ANSWER = "Rejection"


def defend(
    source: SourceArgument,
    model: ModelOption = "fashion-adversarial",
    checkpoint: CheckpointOption = None,
    key: KeyOption = None,
    layout: LayoutOption = "auto",
    bounds: BoundsOption = (0.0, 1.0),
    limit: LimitOption = None,
    resize: ResizeOption = False,
    convert: ConvertOption = False,
    skip_bad: SkipBadOption = False,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    objective: Annotated[
        Objective, typer.Option(help="What is sought.", rich_help_panel=SEARCH)
    ] = "mcn",
    radius: Annotated[
        float, typer.Option(help="l_inf radius that is searched.", rich_help_panel=SEARCH)
    ] = 0.05,
    distance_weight: Annotated[
        float | None, typer.Option(help="lambda of hcnn.", rich_help_panel=SEARCH)
    ] = None,
    distance_norm: Annotated[
        Norm, typer.Option(help="Norm of hcnn and ncn.", rich_help_panel=SEARCH)
    ] = "linf",
    confidence: Annotated[
        float | None, typer.Option(help="p of ncn.", rich_help_panel=SEARCH)
    ] = None,
    order: Annotated[
        float | None,
        typer.Option(help="Order of entropy; 1 (Shannon) if not given.", rich_help_panel=SEARCH),
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.", rich_help_panel=SEARCH)] = 20,
    step_size: Annotated[
        float | None, typer.Option(help="Length of the first step.", rich_help_panel=SEARCH)
    ] = None,
    momentum: Annotated[
        float, typer.Option(help="Share of the last step kept.", rich_help_panel=SEARCH)
    ] = SearchConfig.momentum,
    schedule: Annotated[
        Schedule, typer.Option(help="Lengths of the steps.", rich_help_panel=SEARCH)
    ] = "decay",
    starts: Annotated[int, typer.Option(help="Runs per label.", rich_help_panel=SEARCH)] = 1,
    seed: Annotated[int, typer.Option(help="Of further starts.", rich_help_panel=SEARCH)] = 0,
    labels: Annotated[
        int | None,
        typer.Option(
            help="Try the so many likeliest labels; all if not given.", rich_help_panel=SEARCH
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="Objective that may be given up to stop early.", rich_help_panel=SEARCH),
    ] = 0.0,
    precision: Annotated[
        Precision, typer.Option(help="Arithmetic of the search.", rich_help_panel=SEARCH)
    ] = "float32",
    compiled: CompileOption = False,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory that the search of a chunk of images adds, such as 512MB or 2GiB; no"
            " limit if not given.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    threads: ThreadsOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    resume: ResumeOption = "automatic",
    threshold: Annotated[
        float | None,
        typer.Option(help="Reject answers of less confidence.", rich_help_panel=ANSWER),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET:SPLIT",
            help="Set the threshold on the last images of a split.",
            rich_help_panel=ANSWER,
        ),
    ] = None,
    calibrate_limit: Annotated[
        int, typer.Option(min=1, help="So many of them.", rich_help_panel=ANSWER)
    ] = 1000,
    tpr: Annotated[
        float,
        typer.Option(help="Share of right answers that stay accepted.", rich_help_panel=ANSWER),
    ] = 0.99,
    output: OutputOption = None,
    points: PointsOption = None,
    json_summary: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict, or reject, at the most confident point around each image.

    One row per image: index, name, label (-1 where rejected), class_name, confidence, accepted,
    base_label, base_confidence, value (the objective attained), winner (the label whose run won),
    true_label where the data set knows it, and error.

    With --engine ray an image that cannot be read always becomes a row with its error, and the
    rows are those of one process with --skip-bad and as many --threads, to the bit.

    Exit code 0: all rows written; 1: failed on the way; 2: wrong usage; 130: interrupted. What was
    written by then is valid and kept as <name>.partial<suffix>.
    """
    if threshold is not None and calibrate is not None:
        raise WrongUsage("--threshold and --calibrate exclude each other")
    if objective == "hcnn" and distance_weight is None:
        raise WrongUsage("--objective hcnn needs --distance-weight")
    if objective == "ncn" and confidence is None:
        raise WrongUsage("--objective ncn needs --confidence")
    check_results(engine, output=output, points=points, json_summary=json_summary, resume=resume)
    cluster = chosen_cluster(engine, address, workers, threads, gpus_per_worker, device)
    config = SearchConfig(
        objective=objective,
        radius=radius,
        distance_weight=distance_weight or 0.0,
        distance_norm=distance_norm,
        confidence=confidence,
        order=1.0 if order is None and objective == "entropy" else order,
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        tolerance=tolerance,
        schedule=schedule,
        starts=starts,
        seed=seed,
        labels=labels,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        memory_budget=None if memory_budget is None else parse_size(memory_budget),
        compile=compiled,
    )
    where = chosen_device(cluster, device, backend)
    request = DefendRequest(
        source=source,
        model=model,
        checkpoint=checkpoint,
        device=where,
        config=config,
        reading=InputOptions(
            bounds=config.bounds,
            limit=limit,
            key=key,
            layout=layout,
            resize=resize,
            convert=convert,
            skip_bad=skip_bad or cluster is not None,
            data_root=data_root,
            download=download,
        ),
        threshold=threshold,
        calibration=None if calibrate is None else Calibration(calibrate, calibrate_limit, tpr),
        output=output,
        points=points,
        quiet=quiet,
        threads=1 if cluster is not None and threads is None else threads,
        cluster=cluster,
        resume=resume,
    )
    print_report(run_defend(request), json_summary=json_summary, quiet=quiet)
