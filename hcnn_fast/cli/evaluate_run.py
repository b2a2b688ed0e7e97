"""The work of `hcnn-fast evaluate`, from its checks to the report on disk."""

from __future__ import annotations

import difflib
import math
import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn_fast import data as datasets
from hcnn_fast import models
from hcnn_fast._version import __version__
from hcnn_fast.cli.classifiers import check_fit, choose_device, load_classifier
from hcnn_fast.cli.failures import Interrupted, WrongUsage
from hcnn_fast.cli.interruption import deferred_interrupt
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.experiments import (
    EXPERIMENTS,
    NATURAL,
    ROBUST,
    Experiment,
    Findings,
    Settings,
    Subject,
    Task,
    chosen_points,
    evidence,
    open_store,
    points_done,
    run_chunks,
)
from hcnn_fast.experiments.report import ReportContext, write_report
from hcnn_fast.experiments.settings import SMALL, radii_for
from hcnn_fast.run_folder import Resume


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What the command line asked for.

    Attributes:
        name: of the experiment.
        model, checkpoint: what it is about.
        natural, natural_checkpoint: a naturally trained model beside it; None for none.
        data, data_root, download: data set and where it is.
        device: "auto" or the name of a device.
        radii, confidences: None for the experiment's.
        budget: fields of `Budget`, None for the experiment's.
        seed: of points and starts.
        chunk: points stored at a time.
        output: the results go to its subfolder of the experiment's name.
        resume: whether to go on with what is there.
        minutes: time to spend; None: no limit.
        quiet: report nothing on the way.
    """

    name: str
    model: str
    checkpoint: Path | None
    natural: str | None
    natural_checkpoint: Path | None
    data: str
    data_root: Path | None
    download: bool
    device: str
    radii: tuple[float, ...] | None
    confidences: tuple[float, ...] | None
    budget: Mapping[str, int | None]
    seed: int
    chunk: int
    output: Path
    resume: Resume
    minutes: float | None
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Attributes:
        findings: tables, reading and pictures.
        numbers: everything measured, as plain values.
        folder: where it was written.
        done, asked: points of every model.
    """

    findings: Findings
    numbers: Mapping[str, Any]
    folder: Path
    done: int
    asked: int


def run_evaluate(request: EvaluateRequest) -> Result:
    """Check everything, make the chunks that are missing, read all, write the report.

    Raises:
        Interrupted: Ctrl-C; says how many points are done.
        WrongUsage, TypeError, ValueError, FileNotFoundError: something cannot be used as asked.
    """
    experiment = _experiment(request.name)
    if request.minutes is not None and not 0.0 < request.minutes < math.inf:
        raise WrongUsage(f"--time is {request.minutes!r}, expected minutes > 0")
    settings = _settings(request, experiment)
    device = choose_device(request.device)
    subjects = [_subject(request.model, request.checkpoint, device, ROBUST)]
    if request.natural is not None:
        subjects.append(_subject(request.natural, request.natural_checkpoint, device, NATURAL))
    data = datasets.load(request.data, "test", request.data_root, request.download)
    for subject in subjects:
        check_fit(subject.model, subject.name, data, device)
    task = Task(experiment=experiment, subjects=tuple(subjects), data=data, settings=settings)
    points = chosen_points(task)
    folder, seconds = request.output / experiment.name, None
    if request.minutes is not None:
        seconds = 60.0 * request.minutes
    with open_store(folder, task.fingerprint(), request.resume) as store:
        seen = 0
        try:
            with progress_bar(
                f"Evaluating {experiment.name}", settings.points, quiet=request.quiet
            ) as advance:

                def count(done: int) -> None:
                    nonlocal seen
                    seen += done
                    advance(done)

                run_chunks(task, points, store, seconds=seconds, advance=count)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after {seen} of {settings.points} points; the same command goes on"
            ) from None
        found = evidence(task, points, store)
        findings = experiment.findings(found)
        context = ReportContext(
            experiment=experiment,
            subjects=task.subjects,
            command=_command(request, settings),
            settings=settings.to_dict(),
            versions={
                "hcnn_fast": __version__,
                "torch": torch.__version__,
                "Python": platform.python_version(),
                "device": str(device),
            },
            done=points_done(found),
            asked=settings.points,
        )
        with deferred_interrupt():
            numbers = write_report(folder, findings, context)
    return Result(
        findings=findings,
        numbers=numbers,
        folder=folder,
        done=context.done,
        asked=context.asked,
    )


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        expected = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(EXPERIMENTS)}"
        raise WrongUsage(f"experiment is {name!r}; {expected}")
    return EXPERIMENTS[name]


def _settings(request: EvaluateRequest, experiment: Experiment) -> Settings:
    """What was asked for, filled up from the experiment's budget."""
    budget = experiment.small_budget if request.data in SMALL else experiment.budget
    amounts = {name: value for name, value in request.budget.items() if value is not None}
    radii, paper_radii = radii_for(request.data, experiment.paper_radii, request.radii)
    return Settings(
        data=request.data,
        radii=radii,
        paper_radii=paper_radii,
        confidences=experiment.confidences
        if request.confidences is None
        else tuple(sorted(set(request.confidences))),
        seed=request.seed,
        chunk=request.chunk,
        **{**asdict(budget), **amounts},
    )


def _subject(name: str, checkpoint: Path | None, device: torch.device, role: str) -> Subject:
    """A model, in the role that its card says, or else in the one that it was given."""
    loaded = load_classifier(name, checkpoint, device)
    card: Mapping[str, Any] = {}
    if checkpoint is None and (name in models.registry.TRAINED or name.endswith(".safetensors")):
        card = models.card(name)
    method = card.get("recipe", {}).get("method")
    known = {"adversarial": ROBUST, "natural": NATURAL}
    return Subject(name, known.get(method, role), loaded.model, card)


def _command(request: EvaluateRequest, settings: Settings) -> str:
    """The command line that asks for this, with every number spelled out."""
    words: list[Any] = ["hcnn-fast", "evaluate", request.name, "--model", request.model]
    for option, value in (
        ("--checkpoint", request.checkpoint),
        ("--natural", request.natural),
        ("--natural-checkpoint", request.natural_checkpoint),
        ("--data", request.data),
        ("--data-root", request.data_root),
        ("--radii", ",".join(f"{radius:g}" for radius in settings.radii)),
        ("--confidences", ",".join(f"{p:g}" for p in settings.confidences) or None),
        ("--points", settings.points),
        ("--steps", settings.steps),
        ("--starts", settings.starts),
        ("--search-steps", settings.search_steps),
        ("--seed", settings.seed),
        ("--chunk", settings.chunk),
        ("--output", request.output),
    ):
        if value is not None:
            words += [option, value]
    return shlex.join(str(word) for word in words)
