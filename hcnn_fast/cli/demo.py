"""`hcnn-fast demo`: base, defence and rejection, clean and attacked, on the shipped images."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from hcnn_fast.attacks.pgd import Objective as AttackObjective
from hcnn_fast.backends import build_info
from hcnn_fast.cli.classifiers import load_classifier
from hcnn_fast.cli.demo_measurement import ModelMeasurement
from hcnn_fast.cli.demo_run import AttackPlan, Split, measure, passes
from hcnn_fast.cli.demo_tables import NOTES, accuracy_table, rejection_table
from hcnn_fast.cli.failures import Interrupted, WrongUsage
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.config import SearchConfig
from hcnn_fast.jobs.inputs import InputOptions, open_dataset
from hcnn_fast.jobs.readers import scaled

MODELS = ("fashion-adversarial", "fashion-natural")  # of the images that ship
TABLE_WIDTH = 118  # where standard output is no terminal
WIDE = 100  # columns that the whole table needs


def demo(
    output: Annotated[Path, typer.Option(help="Folder for demo.json and the pictures.")] = Path(
        "out"
    ),
    images: Annotated[
        int, typer.Option(min=2, help="Images used: one half evaluated, the other for thresholds.")
    ] = 256,
    radius: Annotated[float, typer.Option(help="l_inf radius xi of the search.")] = 0.05,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of the search.")] = 6,
    attack_radius: Annotated[
        list[float] | None,
        typer.Option(help="l_inf radius of an attack; may be repeated. [default: 0.05, 0.1]"),
    ] = None,
    attack_steps: Annotated[int, typer.Option(min=1, help="Gradient steps of an attack.")] = 20,
    attack_starts: Annotated[int, typer.Option(min=1, help="Restarts of an attack.")] = 1,
    attack_objective: Annotated[
        AttackObjective, typer.Option(help="What an attack raises.")
    ] = "log_odds",
    tpr: Annotated[float, typer.Option(help="Share of right answers that stays accepted.")] = 0.99,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model; may be repeated. [default: the shipped ones]"),
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="DATASET:SPLIT", help="Labelled images.")
    ] = "fashion-mnist-sample:test",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the attack's random starts.")] = 0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON instead of tables.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")] = False,
) -> None:
    """Measure base model, most confident neighbour (MCN) and rejection, clean and attacked.

    Writes demo.json, gallery.png and confidence.png, and prints the tables.
    """
    began = time.perf_counter()
    config = SearchConfig.mcn(radius, steps=steps)
    radii = tuple(sorted(set(attack_radius or (0.05, 0.1))))
    for number in radii:
        SearchConfig.mcn(number)  # the same check, before any work
    if not 0.0 < tpr <= 1.0:
        raise WrongUsage(f"tpr is {tpr!r}, expected a number in (0, 1]")
    plan = AttackPlan(radii, attack_steps, attack_starts, attack_objective, seed)
    _make_folder(output)
    device = torch.device("cpu")
    classifiers = [load_classifier(name, None, device) for name in model or MODELS]
    reading = InputOptions(shape=classifiers[0].shape, data_root=data_root)
    dataset = open_dataset(data, reading)
    if images > len(dataset):
        raise WrongUsage(f"--images is {images}, and {data} has {len(dataset)}")
    dataset = dataset.first(images)
    pixels = scaled(dataset.images, config.bounds)
    half = (images + 1) // 2
    evaluated = Split(pixels[:half], dataset.labels[:half])
    held_out = Split(pixels[half:], dataset.labels[half:])
    measurements: list[ModelMeasurement] = []
    for classifier in classifiers:
        try:
            with progress_bar(
                f"Measuring {classifier.name}",
                passes(len(evaluated.targets), len(held_out.targets), plan),
                quiet=quiet,
            ) as advance:
                measurements.append(
                    measure(
                        classifier.name,
                        classifier.model,
                        evaluated=evaluated,
                        held_out=held_out,
                        config=config,
                        plan=plan,
                        tpr=tpr,
                        advance=advance,
                    )
                )
        except KeyboardInterrupt:
            done = f"{len(measurements)} of {len(classifiers)} models"
            raise Interrupted(f"interrupted after {done}; nothing is written") from None
    from hcnn_fast.cli.demo_figures import draw_gallery, draw_histograms

    draw_gallery(measurements, dataset.class_names, radius, output / "gallery.png")
    draw_histograms(measurements, output / "confidence.png")
    figures: dict[str, Any] = {
        "data": data,
        "evaluated_images": len(evaluated.targets),
        "calibration_images": len(held_out.targets),
        "tpr": tpr,
        "config": config.to_dict(),
        "attack": {
            "target": "base model (static)",
            "steps": plan.steps,
            "starts": plan.starts,
            "objective": plan.objective,
            "seed": plan.seed,
            "radii": list(plan.radii),
        },
        "models": [measurement.to_dict() for measurement in measurements],
        "notes": list(NOTES),
        "pictures": ["gallery.png", "confidence.png"],
        "seconds": time.perf_counter() - began,
        "build": build_info(),
    }
    text = json.dumps(figures, indent=2, allow_nan=False)
    (output / "demo.json").write_text(text + "\n", encoding="utf-8")
    if json_output:
        print(text)
    elif not quiet:
        _print(measurements, config, plan, output, time.perf_counter() - began)


def _make_folder(folder: Path) -> None:
    """Make the folder and see that it can be written to, before the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".demo.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WrongUsage(f"{folder} cannot be written to: {error.strerror}") from error


def _print(
    measurements: list[ModelMeasurement],
    config: SearchConfig,
    plan: AttackPlan,
    folder: Path,
    seconds: float,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    console.print(
        f"Search: MCN in the l_inf ball of radius {config.radius:g}, {config.steps} steps for each"
        f" label. Attack on the base model: PGD, {plan.steps} steps, {plan.starts} start(s),"
        f" raising {plan.objective}.\n"
    )
    for measurement in measurements:
        console.print(accuracy_table(measurement, wide=console.width >= WIDE))
        console.print(rejection_table(measurement))
        console.print()
    for note in NOTES:
        console.print(f"- {note}", style="italic", markup=False)
    names = ", ".join(str(folder / name) for name in ("gallery.png", "confidence.png", "demo.json"))
    console.print(f"\n{seconds:.1f} s; written: {names}", markup=False)
