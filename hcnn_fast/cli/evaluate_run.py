"""The work of `hcnn-fast evaluate`, from its checks to the report on disk."""

from __future__ import annotations

import difflib
import math
import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    ChunkStore,
    Experiment,
    Findings,
    Settings,
    Subject,
    Task,
    Training,
    chosen_points,
    evidence,
    open_store,
    points_done,
    run_chunks,
    trained_family,
)
from hcnn_fast.experiments.family import Family
from hcnn_fast.experiments.on_manifold import NAME as ON_MANIFOLD
from hcnn_fast.experiments.report import ReportContext, write_report
from hcnn_fast.experiments.settings import SMALL, radii_for
from hcnn_fast.jobs.work import torch_threads
from hcnn_fast.run_folder import Resume
from hcnn_fast.scale import Cluster
from hcnn_fast.scale.evaluate import run_chunks_on_ray

ROBUST_MODEL = "fashion-adversarial"


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What the command line asked for.

    Attributes:
        name: of the experiment.
        model, checkpoint: what it is about; None: the shipped robust model.
        natural, natural_checkpoint: a naturally trained model beside it; None for none.
        data, data_root, download: data set and where it is.
        device: "auto" or the name of a device.
        radii, confidences: None for the experiment's.
        budget: fields of `Budget`, None for the experiment's.
        training: fields of `Training`, None for the experiment's.
        seed: of points and starts.
        chunk: points stored at a time.
        output: the results go to its subfolder of the experiment's name.
        resume: whether to go on with what is there.
        minutes: time to spend; None: no limit.
        quiet: report nothing on the way.
        threads: of torch; None: its own number, or one for each worker of a cluster.
        cluster: where points are attacked; None: in this process.
    """

    name: str
    model: str | None
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
    training: Mapping[str, Any]
    seed: int
    chunk: int
    output: Path
    resume: Resume
    minutes: float | None
    quiet: bool
    threads: int | None = None
    cluster: Cluster | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Attributes:
        findings: tables, reading and pictures.
        numbers: everything measured, as plain values.
        folder: where it was written.
        done, asked: points of every model, or models.
        unit: which of both.
    """

    findings: Findings
    numbers: Mapping[str, Any]
    folder: Path
    done: int
    asked: int
    unit: str = "points"


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
    with torch_threads(request.threads):
        return _run(request, experiment, settings)


def _run(request: EvaluateRequest, experiment: Experiment, settings: Settings) -> Result:
    device = choose_device("cpu" if request.cluster else request.device)
    data = datasets.load(request.data, "test", request.data_root, request.download)
    folder = request.output / experiment.name
    if experiment.family is None:
        subjects = _given_models(request, device)
        for subject in subjects:
            check_fit(subject.model, subject.name, data, device)
    else:
        trainer = choose_device(request.device)
        subjects = _trained_models(request, experiment.family, settings, folder, trainer)
    task = Task(experiment=experiment, subjects=subjects, data=data, settings=settings).on(device)
    points = chosen_points(task)
    kind = request.cluster.device if request.cluster else device.type
    with open_store(folder, task.fingerprint(kind, request.threads), request.resume) as store:
        _make_chunks(request, task, points, store)
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
                "device": kind if request.cluster else str(device),
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


def _make_chunks(
    request: EvaluateRequest,
    task: Task,
    points: dict[str, Tensor],  # by role, [points]
    store: ChunkStore,
) -> None:
    """Attack the points that are not done yet, here or on the cluster."""
    asked, seen = task.settings.points, 0
    try:
        with progress_bar(f"Evaluating {task.experiment.name}", asked, quiet=request.quiet) as bar:

            def count(done: int) -> None:
                nonlocal seen
                seen += done
                bar(done)

            if request.cluster is None:
                seconds = None if request.minutes is None else 60.0 * request.minutes
                run_chunks(task, points, store, seconds=seconds, advance=count)
            else:
                run_chunks_on_ray(task, points, store, cluster=request.cluster, advance=count)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted after {seen} of {asked} points; the same command goes on"
        ) from None


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        names = (*EXPERIMENTS, ON_MANIFOLD)
        near = difflib.get_close_matches(name, names, n=1)
        expected = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(names)}"
        raise WrongUsage(f"experiment is {name!r}; {expected}")
    return EXPERIMENTS[name]


def _given_models(request: EvaluateRequest, device: torch.device) -> tuple[Subject, ...]:
    """The models that were named, the robust one first."""
    model = ROBUST_MODEL if request.model is None else request.model
    subjects = [_subject(model, request.checkpoint, device, ROBUST)]
    if request.natural is not None:
        subjects.append(_subject(request.natural, request.natural_checkpoint, device, NATURAL))
    return tuple(subjects)


def _trained_models(
    request: EvaluateRequest,
    family: Family,
    settings: Settings,
    folder: Path,
    device: torch.device,
) -> tuple[Subject, ...]:
    """The models of a family, trained as far as that is not done yet."""
    assert settings.training is not None, "filled in for a family"
    data = datasets.load(request.data, "train", request.data_root, request.download)
    check_fit(models.build(settings.training.architecture), settings.training.architecture, data)
    members = family.members(settings)
    shown: dict[str, int] = {}
    try:
        with progress_bar("Training", 100 * len(members), quiet=request.quiet) as advance:

            def count(role: str, done: int, all_steps: int) -> None:
                percent = 100 * done // all_steps
                advance(percent - shown.get(role, 0))
                shown[role] = percent

            return trained_family(members, settings.training, data, folder, device, count)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while {len(members)} models were trained; the same command goes on"
        ) from None


def _settings(request: EvaluateRequest, experiment: Experiment) -> Settings:
    """What was asked for, filled up from the experiment's budget."""
    training = {name: value for name, value in request.training.items() if value is not None}
    if experiment.family is None and training:
        option = min(training).replace("images", "train-images")
        raise WrongUsage(f"--{option} says nothing to {experiment.name}, which trains no model")
    for option in ("model", "natural", "checkpoint", "natural_checkpoint"):
        if experiment.family is not None and getattr(request, option) is not None:
            raise WrongUsage(
                f"--{option.replace('_', '-')} says nothing to {experiment.name}, which trains its"
                " own models"
            )
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
        training=replace(experiment.family.training, **training) if experiment.family else None,
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
    words: list[Any] = ["hcnn-fast", "evaluate", request.name]
    model = ROBUST_MODEL if settings.training is None and request.model is None else request.model
    for option, value in (
        ("--model", model),
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
        *(() if settings.training is None else _training_options(settings.training)),
        ("--seed", settings.seed),
        ("--chunk", settings.chunk),
        ("--threads", request.threads),
        ("--output", request.output),
    ):
        if value is not None:
            words += [option, value]
    return shlex.join(str(word) for word in words)


def _training_options(training: Training) -> tuple[tuple[str, Any], ...]:
    return (
        ("--architecture", training.architecture),
        ("--epochs", training.epochs),
        ("--train-images", training.images),
    )
