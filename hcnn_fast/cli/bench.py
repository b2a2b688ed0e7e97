"""`hcnn-fast bench`: what the search costs on a model, beside what users loop over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hcnn_fast.cli.bench_run import BenchRequest, run_bench
from hcnn_fast.cli.bench_tables import cost_table, heading, scaling_table, sentences
from hcnn_fast.cli.classifiers import check_backend, choose_device
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.input_options import CompileOption
from hcnn_fast.config import BackendName, Precision, SearchConfig

SEARCH, INPUT, RESULT = "Search", "Model and images", "Measurement"
TABLE_WIDTH = 118  # where standard output is no terminal


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped model, an architecture (random weights unless --checkpoint), or"
            " module:factory of a function that makes one; may be repeated."
            " [default: fashion-adversarial]",
            rich_help_panel=INPUT,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights for the model: .safetensors, or a torch file of a state dict.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            help="Images as `defend` reads them: file, folder, array, or DATASET:SPLIT. If not"
            " given, the shipped sample for a shipped model, else random images.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="CxHxW",
            help="Shape of random images, such as 3x32x32, for a model without a card.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="So many images.", rich_help_panel=INPUT)] = 64,
    bounds: Annotated[
        tuple[float, float],
        typer.Option(help="Values of black and white for the model.", rich_help_panel=INPUT),
    ] = (0.0, 1.0),
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", rich_help_panel=INPUT)
    ] = None,
    radius: Annotated[
        float, typer.Option(help="l_inf radius that is searched.", rich_help_panel=SEARCH)
    ] = 0.05,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.", rich_help_panel=SEARCH)] = 20,
    starts: Annotated[int, typer.Option(help="Runs per label.", rich_help_panel=SEARCH)] = 1,
    labels: Annotated[
        int | None,
        typer.Option(
            help="Try the so many likeliest labels; all if not given.", rich_help_panel=SEARCH
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Arithmetic of the search.", rich_help_panel=SEARCH)
    ] = "float32",
    compiled: CompileOption = False,
    backend: Annotated[
        BackendName, typer.Option(help="Implementation.", rich_help_panel=SEARCH)
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1; auto: CUDA if any.", rich_help_panel=SEARCH)
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Candidates per pass; planned if not given.", rich_help_panel=SEARCH),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed repetitions.", rich_help_panel=RESULT)
    ] = 3,
    rivals: Annotated[
        bool,
        typer.Option(
            "--rivals",
            help="Also torchattacks, Foolbox, ART, and loops by hand, at equal steps.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Also the cost against images, labels, classes, starts and steps; makes a plot.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="PNG file for the plot. [default: scaling.png]", rich_help_panel=RESULT),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print all figures as JSON.", rich_help_panel=RESULT)
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="No progress, no tables.", rich_help_panel=RESULT),
    ] = False,
) -> None:
    """Measure the search (MCN) on a model: speed, work, memory, and what bounds it.

    Every row is timed after a warm-up; a further run with a clock around the model gives the share
    of time outside it and the peak of memory. Rates of a matrix product and of a copy, measured in
    the same minute, are what it is compared with.
    """
    if output is not None and not scaling:
        raise WrongUsage("--output is for the plot of --scaling")
    if output is not None and output.suffix.lower() != ".png":
        raise WrongUsage(f"--output is {output}, expected a .png file")
    names = tuple(model or ("fashion-adversarial",))
    if checkpoint is not None and len(names) > 1:
        raise WrongUsage(f"--checkpoint fits one model, and {len(names)} are named")
    if rivals and bounds != (0.0, 1.0):
        raise WrongUsage(f"--rivals needs --bounds 0 1 (torchattacks knows no others): {bounds}")
    if rivals and labels is not None:
        raise WrongUsage("--rivals try all labels; leave out --labels")
    if rivals and starts != 1:
        raise WrongUsage("--rivals start once, at the image; leave out --starts")
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        starts=starts,
        labels=labels,
        bounds=bounds,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        compile=compiled,
    )
    where = choose_device(device)
    check_backend(backend, where)
    request = BenchRequest(
        models=names,
        checkpoint=checkpoint,
        data=data,
        shape=None if shape is None else parse_shape(shape),
        images=images,
        data_root=data_root,
        config=config,
        device=where,
        rounds=rounds,
        rivals=rivals,
        plot=(output or Path("scaling.png")) if scaling else None,
        quiet=quiet,
    )
    report = run_bench(request)
    if json_output:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    elif not quiet:
        console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
        for line in heading(report):
            console.print(line, markup=False)
        console.print(cost_table(report))
        for line in sentences(report):
            console.print(line, markup=False)
        if report.scaling:
            console.print()
            console.print(scaling_table(report))
            console.print(f"written: {request.plot}", markup=False)


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape of an image from text such as 3x32x32.

    Raises:
        WrongUsage: not positive integers joined by "x".
    """
    parts = text.lower().split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise WrongUsage(f"--shape is {text!r}, expected positive integers such as 3x32x32")
    return tuple(int(part) for part in parts)
