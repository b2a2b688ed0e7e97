"""`hcnn-fast evaluate`: the experiments of the source paper, resumable, with a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hcnn_fast.cli.engine_options import (
    AddressOption,
    EngineOption,
    GpusOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
)
from hcnn_fast.cli.evaluate_run import EvaluateRequest, Result, run_evaluate
from hcnn_fast.cli.evaluate_tables import rich_table
from hcnn_fast.cli.on_manifold_run import OnManifoldRequest, run_on_manifold
from hcnn_fast.experiments import EXPERIMENTS, on_manifold
from hcnn_fast.experiments.report import NUMBERS, REPORT
from hcnn_fast.failures import WrongUsage
from hcnn_fast.run_folder import Resume

DATA, ATTACK, RESULT = "Models and data", "Attack", "Run and result"
TRAINING = "Training, of experiments that train their models"
TABLE_WIDTH = 140  # where standard output is no terminal


def _numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Numbers between commas."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}, expected numbers such as 0.01,0.02") from error


def _counts(text: str | None) -> tuple[int, ...] | None:
    """Whole numbers between commas."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--train-counts is {text!r}, expected ints such as 250,1000") from error


def _one(radii: tuple[float, ...] | None) -> float | None:
    """The only radius, where one is given."""
    if radii is not None and len(radii) != 1:
        raise WrongUsage(f"--radii is {list(radii)}, expected one radius for on-manifold")
    return None if radii is None else radii[0]


def evaluate(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=", ".join((*EXPERIMENTS, on_manifold.NAME)) + "."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the experiment is about; fashion-adversarial if not given.",
            rich_help_panel=DATA,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of --model.", rich_help_panel=DATA)
    ] = None,
    natural: Annotated[
        str | None,
        typer.Option(
            help="Naturally trained model to measure beside it, or to transfer from.",
            rich_help_panel=DATA,
        ),
    ] = None,
    natural_checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of --natural.", rich_help_panel=DATA)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="fashion-mnist-sample, fashion-mnist, mnist or cifar10; test images."
            " on-manifold: glyphs-easy, glyphs-moderate, glyphs-hard, mnist or fashion-mnist. The"
            " sample, or glyphs-hard, if not given.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", rich_help_panel=DATA)
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Fetch a missing data set.", rich_help_panel=DATA)
    ] = False,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1; auto: CUDA if any.", rich_help_panel=DATA)
    ] = "auto",
    points: Annotated[
        int | None,
        typer.Option(
            min=1, help="Points attacked; the paper's if not given.", rich_help_panel=ATTACK
        ),
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...",
            help="l_inf radii; the paper's if not given, on other data than CIFAR-10 in proportion"
            " to the training radius.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    confidences: Annotated[
        str | None,
        typer.Option(
            metavar="P,P,...",
            help="Confidences p; the paper's if not given.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Gradient steps of a run; the paper's if not given.", rich_help_panel=ATTACK
        ),
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs for each image and class; the paper's if not given.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    search_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the defence's search; the paper's if not given.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Of points, random starts and training.", rich_help_panel=ATTACK),
    ] = 0,
    architecture: Annotated[
        str | None,
        typer.Option(help="Of the models; small-cnn if not given.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Of each model.", rich_help_panel=TRAINING),
    ] = None,
    train_images: Annotated[
        int | None,
        typer.Option(min=2, help="The first so many; all if not given.", rich_help_panel=TRAINING),
    ] = None,
    train_counts: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="on-manifold: numbers of training images; 250,1000,4000 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    train_seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="on-manifold: models of each method and number; 3 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="on-manifold: steps of SGD of each model; 300 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    training_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="on-manifold: steps of the attacks in training; 5 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    latent_radius: Annotated[
        float | None,
        typer.Option(
            help="on-manifold: l_inf radius in latent units; 0.3 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Results go to OUTPUT/NAME.", rich_help_panel=RESULT)
    ] = Path("out"),
    resume: Annotated[
        Resume,
        typer.Option(
            help="Go on with the run in OUTPUT: automatic, if there is one; always; never.",
            rich_help_panel=RESULT,
        ),
    ] = "automatic",
    time: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Stop after the chunk in which so much time is used up.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    threads: ThreadsOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    chunk: Annotated[
        int,
        typer.Option(
            min=1, help="Points stored at a time; changes no number.", rich_help_panel=RESULT
        ),
    ] = 8,
    json_output: Annotated[
        bool,
        typer.Option("--json", help="Print the numbers as JSON.", rich_help_panel=RESULT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no tables.", rich_help_panel=RESULT)
    ] = False,
) -> None:
    """Run an experiment of a source paper and put its numbers beside the paper's.

    on-manifold is one of Stutz et al. (2019) that trains its own models, and keeps each as it is
    done; it takes one of --radii, and neither models nor confidences.

    Writes attempts (Parquet), numbers.json, report.html and pictures. What is done is kept chunk by
    chunk: the same command goes on after Ctrl-C, a crash, or --time. On fashion-mnist-sample the
    budget is smaller than the paper's, for a machine without a GPU.

    With --engine ray workers of Ray attack the points, and rows are the same to the bit for as many
    --threads; models of a family are trained by the command itself.

    Exit code 0: done, or stopped by --time; 1: failed on the way; 2: wrong usage; 130: interrupted.
    """
    training = {
        "--train-counts": train_counts,
        "--train-seeds": train_seeds,
        "--updates": updates,
        "--training-steps": training_steps,
        "--latent-radius": latent_radius,
    }
    of_models = {
        "--model": model,
        "--checkpoint": checkpoint,
        "--natural": natural,
        "--natural-checkpoint": natural_checkpoint,
        "--confidences": confidences,
        "--search-steps": search_steps,
        "--architecture": architecture,
        "--epochs": epochs,
        "--train-images": train_images,
    }
    others = of_models if name == on_manifold.NAME else training
    for option, value in others.items():
        if value is not None:
            raise WrongUsage(f"{option} says nothing to {name}")
    cluster = chosen_cluster(engine, address, workers, threads, gpus_per_worker, device)
    if cluster is not None and time is not None:
        raise WrongUsage("--time is for --engine local")
    if name == on_manifold.NAME and (cluster is not None or threads is not None):
        raise WrongUsage(f"--engine and --threads say nothing to {name}")
    if name == on_manifold.NAME:
        asked = {
            "data": data,
            "counts": _counts(train_counts),
            "seeds": train_seeds,
            "updates": updates,
            "training_steps": training_steps,
            "latent_radius": latent_radius,
            "radius": _one(_numbers(radii, "--radii")),
            "points": points,
            "steps": steps,
            "starts": starts,
        }
        result = run_on_manifold(
            OnManifoldRequest(
                settings={**asked, "seed": seed},
                data_root=data_root,
                download=download,
                device=device,
                output=output,
                resume=resume,
                minutes=time,
                quiet=quiet,
            )
        )
    else:
        result = run_evaluate(
            EvaluateRequest(
                name=name,
                model=model,
                checkpoint=checkpoint,
                natural=natural,
                natural_checkpoint=natural_checkpoint,
                data=data or "fashion-mnist-sample",
                data_root=data_root,
                download=download,
                device=device,
                radii=_numbers(radii, "--radii"),
                confidences=_numbers(confidences, "--confidences"),
                budget={
                    "points": points,
                    "steps": steps,
                    "starts": starts,
                    "search_steps": search_steps,
                },
                training={
                    "architecture": architecture,
                    "images": train_images,
                    "epochs": epochs,
                },
                seed=seed,
                chunk=chunk,
                output=output,
                resume=resume,
                minutes=time,
                quiet=quiet,
                threads=threads if cluster is None else cluster.threads,
                cluster=cluster,
            )
        )
    if json_output:
        print(json.dumps(result.numbers, indent=2, allow_nan=False))
    elif not quiet:
        _print(result)


def _print(result: Result) -> None:
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    for table in result.findings.tables:
        console.print(rich_table(table))
        for note in table.notes:
            console.print(f"- {note}", style="italic", markup=False)
        console.print()
    for sentence in result.findings.reading:
        console.print(f"* {sentence}", markup=False)
    if result.done < result.asked:
        console.print(
            f"\nstopped after {result.done} of {result.asked} {result.unit};"
            " the same command goes on",
            markup=False,
        )
    console.print(
        f"\n{result.done} {result.unit}; written to {result.folder}: {REPORT}, {NUMBERS}",
        markup=False,
    )
