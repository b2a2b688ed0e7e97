"""The work behind `hcnn-fast bench`: load, warm up, time, watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import backends, models
from hcnn_fast.cli.bench_scaling import ScalingPoint, measure_scaling, scaling_plan
from hcnn_fast.cli.classifiers import LoadedClassifier, load_classifier
from hcnn_fast.cli.failures import WrongUsage, one_line
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.engine.model import resolve_precision
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.jobs.inputs import InputOptions, open_input
from hcnn_fast.measurement import (
    CostFigures,
    Roofs,
    measure_roofs,
    model_work,
    observe,
    time_rounds,
)
from hcnn_fast.measurement.observation import Run, looping, searching
from hcnn_fast.measurement.rivals import RIVALS, UNCLOCKED, missing
from hcnn_fast.models.registry import ARCHITECTURES, TRAINED

SAMPLE, SAMPLE_OF = "fashion-mnist-sample:test", "fashion-mnist"
SEED = 0  # of random images and random weights


@dataclass(frozen=True)
class BenchRequest:
    """What `hcnn-fast bench` was asked for, apart from how it is printed.

    Attributes:
        models: names, as `hcnn_fast.models.load` and `build` take them.
        checkpoint: weights of the only model, or None.
        data: what to read images from; None for the shipped sample or random ones.
        shape: of random images; None: as the model's card says.
        images: so many.
        data_root: folder of the data sets.
        config: the search.
        device: where.
        rounds: timed repetitions.
        rivals: whether to measure them.
        plot: where the plot of the scaling goes; None: no scaling is measured.
        quiet: no progress.
    """

    models: tuple[str, ...]
    checkpoint: Path | None
    data: str | None
    shape: tuple[int, ...] | None
    images: int
    data_root: Path | None
    config: SearchConfig
    device: torch.device
    rounds: int
    rivals: bool
    plot: Path | None
    quiet: bool


@dataclass(frozen=True)
class Row:
    """One way to solve the problem of one model.

    Attributes:
        model: its name.
        images: what was searched: where the images come from, and their shape.
        way: "search", "same steps" (the search with the rivals' steps), or a rival.
        figures: what was measured; None where it could not run.
        reason: why it could not, or "".
    """

    model: str
    images: str
    way: str
    figures: CostFigures | None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        figures = {} if self.figures is None else self.figures.to_dict()
        return {
            "model": self.model,
            "data": self.images,
            "way": self.way,
            "not_run": self.reason,
            **figures,
        }


@dataclass(frozen=True)
class BenchReport:
    """What came of it.

    Attributes:
        request: what was asked for.
        roofs: the rates of the machine.
        rows: what was measured.
        scaling: what was measured at other sizes.
        preparation: layers that the search computes otherwise, of each model that has some.
    """

    request: BenchRequest
    roofs: Roofs
    rows: tuple[Row, ...]
    scaling: tuple[ScalingPoint, ...]
    preparation: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        request = self.request
        return {
            "config": request.config.to_dict(),
            "device": device_name(request.device),
            "backend": backends.resolve(request.config.backend, request.device.type),
            "rounds": request.rounds,
            "roofs": self.roofs.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
            "scaling": [point.to_dict() for point in self.scaling],
            "preparation": self.preparation,
            "plot": None if request.plot is None else str(request.plot),
            "build": backends.build_info(),
        }


def device_name(device: torch.device) -> str:
    """The device, with the name of the GPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def run_bench(request: BenchRequest) -> BenchReport:
    """Measure everything that was asked for.

    Raises:
        WrongUsage: the request cannot be met; found before the measurements.
    """
    loaded = [_load(name, request) for name in request.models]
    if request.plot is not None:
        check_folder(request.plot)
    ways = _ways(request)
    plans = [scaling_plan(request.config, x, classes) for _, x, _, classes in loaded]
    points = sum(len(plan) for plan in plans) if request.plot is not None else 0
    rows: list[Row] = []
    scaling: list[ScalingPoint] = []
    preparation: dict[str, str] = {}
    total = 1 + len(loaded) * len(ways) + points
    with progress_bar("Measuring", total, quiet=request.quiet) as advance:
        roofs = measure_roofs(request.device)
        advance(1)
        for (classifier, x, source, classes), plan in zip(loaded, plans, strict=True):
            for way, run in ways.items():
                figures, reason = _measure(way, run, classifier, x, classes, roofs, request)
                rows.append(Row(classifier.name, source, way, figures, reason))
                advance(1)
            preparation |= _preparation(classifier, x, request.config)
            if request.plot is not None:
                scaling += measure_scaling(classifier, x, plan, request.rounds, advance)
    if request.plot is not None:
        from hcnn_fast.cli.bench_plot import draw_scaling

        draw_scaling(scaling, request.plot)
    return BenchReport(request, roofs, tuple(rows), tuple(scaling), preparation)


def _ways(request: BenchRequest) -> dict[str, Run]:
    """Everything to be measured on each model, by name."""
    config = request.config
    ways = {"search": searching(config)}
    if not request.rivals:
        return ways
    same = config.replace(schedule="constant", momentum=0.0, step_size=None)
    ways["same steps"] = searching(same)
    for name, rival in RIVALS.items():
        ways[name] = looping(rival, config.radius, config.steps, same.step_sizes()[0])
    return ways


def _measure(
    way: str,
    run: Run,
    classifier: LoadedClassifier,
    x: Tensor,  # [N, *image]
    classes: int,
    roofs: Roofs,
    request: BenchRequest,
) -> tuple[CostFigures | None, str]:
    """Warm up, watch one run, time the others; a rival that fails gives its reason instead."""
    reason = missing(way)
    if reason is not None:
        return None, reason
    model, unclocked = classifier.model, UNCLOCKED.get(way, "")
    if request.config.compile and way not in RIVALS:
        unclocked = "the model's passes are compiled"
    try:
        run(model, x if unclocked else x[:1])
        watched = observe(run, model, x, unclocked=unclocked)
        seconds = time_rounds(lambda: run(model, x), x.device, rounds=request.rounds)
    except Exception as error:
        if way not in RIVALS:
            raise
        return None, one_line(f"{type(error).__name__}: {error}")[:200]
    config = request.config
    tried = min(classes, config.labels or classes) * config.starts
    return CostFigures(
        images=len(x),
        asked_steps=len(x) * tried * config.steps,
        seconds=tuple(seconds),
        observation=watched,
        work=model_work(model, x[: watched.batch]),
        roofs=roofs,
    ), ""


def _preparation(
    classifier: LoadedClassifier,
    x: Tensor,  # [N, *image]
    config: SearchConfig,
) -> dict[str, str]:
    """The model's name with the layers that the search computes otherwise, if there are some."""
    precision = resolve_precision(config.precision, x)
    said = []
    of_a_search = prepared_model(
        classifier.model, precision, x[:1], config.backend, compiled=config.compile
    )
    with of_a_search as made:
        if made.folded or made.unfolded is not None:
            left = "" if made.unfolded is None else f" ({made.unfolded})"
            said.append(f"{made.folded} BatchNorm layers folded into others{left}")
        if made.winograd:
            said.append(
                f"{made.winograd} convolutions with a quarter of the products, counted here in full"
            )
    return {classifier.name: "; ".join(said)} if said else {}


def _load(name: str, request: BenchRequest) -> tuple[LoadedClassifier, Tensor, str, int]:
    """A model, its images [N, *image], where they come from, and its number of classes."""
    classifier = _load_model(name, request)
    x, source = _load_images(classifier, request)
    x = x.to(request.device)
    if not len(x):
        raise WrongUsage(f"{source} holds no images, expected at least one")
    try:
        with torch.inference_mode():
            classes = as_logits(classifier.model(x[:1]), 1).shape[1]
    except RuntimeError as error:
        raise WrongUsage(
            f"model {name} cannot read images of shape {list(x.shape[1:])}: {error}"
        ) from error
    if request.config.labels is not None and request.config.labels > classes:
        raise WrongUsage(f"labels is {request.config.labels}, and {name} has {classes} classes")
    return classifier, x, source, classes


def _load_model(name: str, request: BenchRequest) -> LoadedClassifier:
    if name not in ARCHITECTURES or request.checkpoint is not None:
        return load_classifier(name, request.checkpoint, request.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = models.build(name)
    return LoadedClassifier(f"{name} (random weights)", model.eval().to(request.device), None, None)


def _load_images(
    classifier: LoadedClassifier, request: BenchRequest
) -> tuple[Tensor, str]:  # [N, *image]
    """Images of the input, of the shipped sample, or random ones."""
    bounds, data = request.config.bounds, request.data
    if data is None and request.shape is None and classifier.name in TRAINED:
        data = SAMPLE if models.card(classifier.name)["data"] == SAMPLE_OF else None
    if data is not None:
        if request.shape is not None:
            raise WrongUsage("--shape is for random images; leave it out with --data")
        reading = InputOptions(
            bounds=bounds,
            limit=request.images,
            data_root=request.data_root,
            shape=classifier.shape,
        )
        chunk = next(iter(open_input(data, reading).chunks(request.images)), None)
        return (torch.empty(0) if chunk is None else chunk.images), data
    shape = request.shape or classifier.shape
    if shape is None:
        raise WrongUsage(
            f"model {classifier.name} does not say what images it takes; give --shape such as"
            " 3x32x32, or --data"
        )
    low, high = bounds
    generator = torch.Generator().manual_seed(SEED)
    x = torch.rand(request.images, *shape, generator=generator).mul_(high - low).add_(low)
    return x.clamp_(low, high), f"random {'x'.join(map(str, shape))}"


def check_folder(path: Path) -> None:
    """See that a file can be written there, before the work.

    Raises:
        WrongUsage: its folder is missing or cannot be written to.
    """
    if not path.parent.is_dir():
        raise WrongUsage(f"--output is {path}, and {path.parent} is no folder")
    probe = path.with_name(f".{path.name}.part")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WrongUsage(f"{path.parent} cannot be written to: {error.strerror}") from error
