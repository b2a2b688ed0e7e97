"""The work of `hcnn-fast evaluate on-manifold`, from its checks to the report on disk."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn_fast._version import __version__
from hcnn_fast.cli.classifiers import choose_device
from hcnn_fast.cli.evaluate_run import Result
from hcnn_fast.cli.failures import Interrupted, WrongUsage
from hcnn_fast.cli.interruption import deferred_interrupt
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.experiments import open_store
from hcnn_fast.experiments.on_manifold import (
    HEADING,
    NAME,
    Study,
    measured_cells,
    run_cells,
)
from hcnn_fast.experiments.on_manifold_findings import findings
from hcnn_fast.experiments.on_manifold_settings import OnManifoldSettings
from hcnn_fast.experiments.report import ReportContext, write_report
from hcnn_fast.run_folder import Resume


@dataclass(frozen=True, kw_only=True)
class OnManifoldRequest:
    """What the command line asked for.

    Attributes:
        settings: fields of `OnManifoldSettings`; None for the default.
        data_root, download: where the data are.
        device: "auto" or the name of a device.
        output: the results go to its subfolder of the experiment's name.
        resume: whether to go on with what is there.
        minutes: time to spend; None: no limit.
        quiet: report nothing on the way.
    """

    settings: Mapping[str, Any]
    data_root: Path | None
    download: bool
    device: str
    output: Path
    resume: Resume
    minutes: float | None
    quiet: bool


def run_on_manifold(request: OnManifoldRequest) -> Result:
    """Check everything, train and measure the models that are missing, write the report.

    Raises:
        Interrupted: Ctrl-C; says how many models are done.
        WrongUsage, TypeError, ValueError, FileNotFoundError: something cannot be used as asked.
    """
    if request.minutes is not None and not 0.0 < request.minutes < math.inf:
        raise WrongUsage(f"--time is {request.minutes!r}, expected minutes > 0")
    said = {name: value for name, value in request.settings.items() if value is not None}
    if "points" in said:  # what is measured on some of the points cannot exceed them
        said["projected"] = min(OnManifoldSettings.projected, said["points"])
        said["test_images"] = max(OnManifoldSettings.test_images, said["points"])
    settings = OnManifoldSettings(**said)
    device = choose_device(request.device)
    study = Study.load(settings, device, data_root=request.data_root, download=request.download)
    folder, asked = request.output / NAME, len(settings.cells())
    seconds = None if request.minutes is None else 60.0 * request.minutes
    with open_store(folder, study.fingerprint(), request.resume):
        try:
            with progress_bar(f"Training for {NAME}", asked, quiet=request.quiet) as advance:
                run_cells(study, folder, seconds=seconds, advance=advance)
        except KeyboardInterrupt:
            done = len(measured_cells(study, folder))
            raise Interrupted(
                f"interrupted after {done} of {asked} models; the same command goes on"
            ) from None
        cells = measured_cells(study, folder)
        found = findings(cells, settings, classes=study.train.classes, known=study.known)
        context = ReportContext(
            experiment=HEADING,
            subjects=(),
            command=_command(request, settings),
            settings=settings.to_dict(),
            versions={
                "hcnn_fast": __version__,
                "torch": torch.__version__,
                "Python": platform.python_version(),
                "device": str(device),
            },
            done=len(cells),
            asked=asked,
            unit="trained models",
        )
        with deferred_interrupt():
            numbers = write_report(folder, found, context)
    return Result(
        findings=found,
        numbers=numbers,
        folder=folder,
        done=len(cells),
        asked=asked,
        unit="trained models",
    )


def _command(request: OnManifoldRequest, settings: OnManifoldSettings) -> str:
    """The command line that asks for this, with every number spelled out."""
    words: list[Any] = ["hcnn-fast", "evaluate", NAME]
    for option, value in (
        ("--data", settings.data),
        ("--data-root", request.data_root),
        ("--train-counts", ",".join(map(str, settings.counts))),
        ("--train-seeds", settings.seeds),
        ("--updates", settings.updates),
        ("--training-steps", settings.training_steps),
        ("--radii", f"{settings.radius:g}"),
        ("--latent-radius", f"{settings.latent_radius:g}"),
        ("--points", settings.points),
        ("--steps", settings.steps),
        ("--starts", settings.starts),
        ("--seed", settings.seed),
        ("--output", request.output),
    ):
        if value is not None:
            words += [option, value]
    return shlex.join(str(word) for word in words)
