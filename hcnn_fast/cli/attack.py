"""`hcnn-fast attack`: whether a model can be fooled within a radius, image by image, as rows."""

from __future__ import annotations

from typing import Annotated

import typer

from hcnn_fast.attacks.named import DEFENCE_METHODS, METHODS
from hcnn_fast.cli.attack_run import AttackRequest, run_attack
from hcnn_fast.cli.engine_options import (
    AddressOption,
    EngineOption,
    GpusOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
    chosen_device,
)
from hcnn_fast.cli.input_options import (
    BackendOption,
    BatchSizeOption,
    BoundsOption,
    CheckpointOption,
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
from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.jobs.inputs import InputOptions

ATTACK = "Attack"


def attack(
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
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Which attack, out of {', '.join(METHODS)}; pgd if not given. With"
            f" --search-radius out of {', '.join(DEFENCE_METHODS)}; danskin if not given. May be"
            " given several times.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option(help="l_inf radius that is attacked.", rich_help_panel=ATTACK)
    ] = 0.05,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What rises, for the attacks that know it: cross_entropy, margin, dlr, log_odds,"
            " confidence or logit.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps of a run.", rich_help_panel=ATTACK)
    ] = None,
    step_size: Annotated[
        float | None, typer.Option(help="Length of the first step.", rich_help_panel=ATTACK)
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Share of the last step kept.", rich_help_panel=ATTACK)
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(help="Runs for an image, or for each of its targets.", rich_help_panel=ATTACK),
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(help="So many of the likeliest wrong classes.", rich_help_panel=ATTACK),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(help="Questions of an attack without gradients.", rich_help_panel=ATTACK),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random starts.", rich_help_panel=ATTACK)] = 0,
    search_radius: Annotated[
        float | None,
        typer.Option(
            help="Attack the defence by an MCN search of this radius, in the model's place.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    search_steps: Annotated[
        int | None, typer.Option(help="Gradient steps of that search.", rich_help_panel=ATTACK)
    ] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    threads: ThreadsOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    resume: ResumeOption = "automatic",
    output: OutputOption = None,
    points: PointsOption = None,
    json_summary: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say for every image whether the model can be made wrong about it within a radius.

    One row per image: index, name, true_label, attacked_label (the true one, or where it is not
    known the model's own answer), base_label, base_confidence; success, whether the model is wrong
    at the point found, label, confidence and distance (l_inf) there; the method and attempt that
    found it and the value of its objective; found_by, all methods that found an error;
    gradient_steps and queries, its share of those of a chunk; and error. Of the errors found the
    most confident is kept. An image that the model gets wrong as it is is a success of method none.

    With --search-radius all of this is said of the defence, which answers at the most confident
    point around each image, in place of the model.

    A setting that is not given is each attack's own, and goes to all that take it where it is; the
    summary says which. With --engine ray an image that cannot be read always becomes a row with
    its error, and the rows are those of one process with --skip-bad and as many --threads, to the
    bit.

    Exit code 0: all rows written, whatever was found; 1: failed on the way; 2: wrong usage; 130:
    interrupted. What was written by then is valid and kept as <name>.partial<suffix>.
    """
    check_results(engine, output=output, points=points, json_summary=json_summary, resume=resume)
    cluster = chosen_cluster(engine, address, workers, threads, gpus_per_worker, device)
    plan = AttackPlan(
        methods=tuple(method or ("pgd" if search_radius is None else "danskin",)),
        radius=radius,
        objective=objective,
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        starts=starts,
        targets=targets,
        queries=queries,
        seed=seed,
        bounds=bounds,
        backend=backend,
        batch_size=batch_size,
        search_radius=search_radius,
        search_steps=search_steps,
    )
    where = chosen_device(cluster, device, backend)
    request = AttackRequest(
        source=source,
        model=model,
        checkpoint=checkpoint,
        device=where,
        reading=InputOptions(
            bounds=plan.bounds,
            limit=limit,
            key=key,
            layout=layout,
            resize=resize,
            convert=convert,
            skip_bad=skip_bad or cluster is not None,
            data_root=data_root,
            download=download,
        ),
        output=output,
        points=points,
        quiet=quiet,
        threads=1 if cluster is not None and threads is None else threads,
        cluster=cluster,
        resume=resume,
        plan=plan,
    )
    print_report(run_attack(request), json_summary=json_summary, quiet=quiet)
