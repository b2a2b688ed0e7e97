"""Models by name on the command line, and the devices they run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hcnn_fast import backends, models
from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.data import ImageDataset


@dataclass(frozen=True)
class LoadedClassifier:
    """A model that is ready to run.

    Attributes:
        name: what it was called on the command line.
        model: in eval mode, on its device.
        shape: shape of the images it takes; None where nothing says so.
        class_names: names of its classes, where its card has them.
    """

    name: str
    model: nn.Module
    shape: tuple[int, ...] | None
    class_names: tuple[str, ...] | None


def choose_device(text: str) -> torch.device:
    """The device of that name; "auto" is CUDA where torch sees it, else the CPU.

    Raises:
        WrongUsage: no such device here.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise WrongUsage(f"--device {text} cannot be used: {reason}") from error
    return device


def check_backend(name: str, device: torch.device) -> str:
    """The backend that will run.

    Raises:
        WrongUsage: it cannot run; says why and what mends it.
    """
    try:
        return backends.resolve(name, device.type)
    except RuntimeError as error:
        raise WrongUsage(str(error)) from error


def load_classifier(name: str, checkpoint: Path | None, device: torch.device) -> LoadedClassifier:
    """A model by name, in eval mode on a device.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `hcnn_fast.models.load` says.
    """
    model = models.load(name, checkpoint).eval().to(device)
    known: dict[str, Any] = {}
    if checkpoint is None and ":" not in name:
        known = models.card(name)
    shape = known.get("input_shape")
    class_names = known.get("class_names")
    return LoadedClassifier(
        name=name,
        model=model,
        shape=None if shape is None else tuple(shape),
        class_names=None if class_names is None else tuple(class_names),
    )


def check_fit(
    model: nn.Module,
    name: str,
    data: ImageDataset,
    device: torch.device | None = None,
) -> None:
    """Run a model on one image: it must read it and tell the right number of classes.

    Args:
        model: is put in eval mode.
        name: what it was called on the command line.
        data: where its images come from.
        device: where the model is; None: on the CPU.

    Raises:
        WrongUsage: it cannot, or does not.
    """
    shape = list(data.images.shape[1:])
    model.eval()
    try:
        with torch.no_grad():
            logits = model(data.images[:1].to(device, torch.float32) / 255.0)  # [1, C]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WrongUsage(
            f"model {name!r} cannot read images of {data.name}, {shape}: {reason}"
        ) from error
    found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != [1, data.classes]:
        raise WrongUsage(
            f"model {name!r} gives {found} for an image of {data.name}, "
            f"expected logits [1, {data.classes}]"
        )
