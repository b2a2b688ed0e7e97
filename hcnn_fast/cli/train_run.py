"""The work of `hcnn-fast train`, from its checks to weights and card on disk."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn_fast import data as datasets
from hcnn_fast import models
from hcnn_fast.cli.classifiers import check_fit, choose_device
from hcnn_fast.cli.failures import Interrupted, WrongUsage
from hcnn_fast.cli.progress import progress_bar
from hcnn_fast.cli.tensorboard import epoch_curves
from hcnn_fast.training import EpochReport, Recipe, save_weights
from hcnn_fast.training import train as train_model
from hcnn_fast.training.card import measure, model_card
from hcnn_fast.training.checkpoint import checkpoint_progress
from hcnn_fast.training.run import CHECKPOINT

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the command line asked for.

    Attributes:
        architecture: name for `models.build`.
        data, data_root, download: data set and where it is.
        images: train on the first so many; None: on all.
        recipe: hyperparameters.
        output: folder of checkpoint, weights and card.
        resume: go on from its checkpoint.
        device: "auto" or the name of a device.
        test_images: measure on the first so many test images; 0: do not measure.
        test_radius: l_inf radius of the attacks on them.
        test_restarts: restarts of the stronger attack.
        tensorboard: write curves for TensorBoard.
        quiet: report nothing on the way.
    """

    architecture: str
    data: str
    data_root: Path | None
    download: bool
    images: int | None
    recipe: Recipe
    output: Path
    resume: bool
    device: str
    test_images: int
    test_radius: float
    test_restarts: int
    tensorboard: bool
    quiet: bool


def run_train(request: TrainRequest) -> dict[str, Any]:
    """Check everything, train, measure, write weights and card; returns the card.

    Raises:
        Interrupted: Ctrl-C; says how far the checkpoint is.
        WrongUsage: something cannot be used as asked; nothing was trained.
    """
    recipe = request.recipe
    if request.test_images and not 0.0 < request.test_radius < float("inf"):
        raise WrongUsage(f"--radius is {request.test_radius!r}, expected a number > 0")
    device = choose_device(request.device)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        model = models.build(request.architecture)
    _check_output(request.output, request.resume)
    data = datasets.load(request.data, "train", request.data_root, request.download)
    data = data.first(request.images)
    test_data = None
    if request.test_images:
        test_data = datasets.load(request.data, "test", request.data_root, request.download)
        test_data = test_data.first(request.test_images)
    check_fit(model, request.architecture, data)
    steps = -(-(len(data) - recipe.validation_images) // recipe.batch_size) * recipe.epochs
    try:
        with (
            epoch_curves(request.output, wanted=request.tensorboard) as add_to_curves,
            _epoch_progress(recipe.epochs, steps, request.quiet) as (on_step, say),
        ):

            def on_epoch(report: EpochReport) -> None:
                say(report)
                add_to_curves(report)

            result = train_model(
                model,
                data,
                recipe,
                request.output,
                resume=request.resume,
                device=device,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        test = None
        if test_data is not None:
            with progress_bar("test", len(test_data), quiet=request.quiet) as advance:
                test = measure(
                    model,
                    test_data,
                    radius=request.test_radius,
                    restarts=request.test_restarts,
                    seed=recipe.seed,
                    on_images=advance,
                )
    except KeyboardInterrupt:
        raise Interrupted(_interruption(request.output / CHECKPOINT)) from None
    card = model_card(request.architecture, model, data, recipe, result, test)
    save_weights(request.output / WEIGHTS, result.weights, card)
    return card


def summary(card: dict[str, Any], output: Path) -> str:
    """The card in a few lines."""
    lines = [
        f"{output / WEIGHTS}: {card['architecture']}, {card['parameters']:,} parameters, "
        f"epoch {card['best_epoch']}, {card['training_seconds']:.0f} s"
    ]
    if card["test"] is not None:
        test = card["test"]
        for name, label in (("clean", "clean"), ("pgd20", "PGD-20"), ("pgd50", "PGD-50")):
            rate = test[name]
            attack = "" if name == "clean" else f" at radius {test['radius']:g}"
            if name == "pgd50":
                attack += f", {rate['restarts']} restart(s) x {len(rate['objectives'])} objectives"
            lines.append(
                f"accuracy {label}{attack}: {rate['value']:.2%} "
                f"[{rate['low']:.2%}, {rate['high']:.2%}] of {rate['total']} test images"
            )
    return "\n".join(lines)


def _check_output(output: Path, resume: bool) -> None:
    """Make the folder, see that files can be written there, and guard an earlier run."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise WrongUsage(f"--output {output} cannot be written to: {reason}") from error
    checkpoint = output / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise WrongUsage(f"no checkpoint at {checkpoint}; train without --resume first")
    if not resume and checkpoint.exists():
        raise WrongUsage(
            f"{output} holds the checkpoint of another run; "
            "add --resume to go on from it, or choose another --output"
        )


def _interruption(checkpoint: Path) -> str:
    """How far the checkpoint on disk is."""
    epoch, step = checkpoint_progress(checkpoint)
    if epoch == step == 0:
        return "interrupted in the first step; no checkpoint was written"
    steps = f" and {step} step{'' if step == 1 else 's'}" if step else ""
    epochs = f"{epoch} epoch{'' if epoch == 1 else 's'}"
    return f"interrupted after {epochs}{steps}; go on with --resume from {checkpoint}"


@contextmanager
def _epoch_progress(
    epochs: int, steps: int, quiet: bool
) -> Iterator[tuple[Callable[[int, int, int], None], Callable[[EpochReport], None]]]:
    """A bar over all steps on a terminal, and a line on stderr after each epoch."""
    with progress_bar("train", steps, quiet=quiet) as advance:
        shown = 0

        def on_step(epoch: int, step: int, steps_per_epoch: int) -> None:
            nonlocal shown
            done = (epoch - 1) * steps_per_epoch + step
            advance(done - shown)
            shown = done

        def on_epoch(report: EpochReport) -> None:
            if not quiet:
                print(_epoch_line(report, epochs), file=sys.stderr, flush=True)

        yield on_step, on_epoch


def _epoch_line(report: EpochReport, epochs: int) -> str:
    """An epoch in one line."""
    return (
        f"epoch {report.epoch}/{epochs}: loss {report.loss:.4f}, accuracy {report.accuracy:.2%}, "
        f"validation {report.validation_clean:.2%} clean, {report.validation_robust:.2%} attacked, "
        f"{report.seconds:.0f} s{' (best)' if report.best else ''}"
    )
