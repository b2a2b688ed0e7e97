"""The card of a trained model: what it is, how it came about, how well it does."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hcnn_fast._version import __version__
from hcnn_fast.attacks import pgd
from hcnn_fast.data.dataset import ImageDataset
from hcnn_fast.evaluation import Proportion
from hcnn_fast.training.inner_attack import use_bfloat16
from hcnn_fast.training.recipe import Recipe
from hcnn_fast.training.result import TrainingResult

CHUNK = 250  # images attacked between two reports of progress

Objective = Literal["cross_entropy", "margin"]


def measure(
    model: nn.Module,
    data: ImageDataset,
    *,
    radius: float,
    restarts: int = 1,
    seed: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Accuracy on images as they are, under PGD-20, and under the worst of several PGD-50.

    PGD-20 raises the cross-entropy from one random start. PGD-50 runs `restarts` times on the
    cross-entropy and as often on the margin; an image counts as right only if no attack, PGD-20
    included, makes it wrong. Attacks on images that are already wrong are left out, which changes
    no number.

    Args:
        model: classifier in eval mode, on the device where it is to be measured.
        data: all of its images are measured.
        radius: l_inf radius of the attacks, in input units.
        restarts: random starts per objective of PGD-50.
        seed: seed of the starts.
        on_images: called with the number of images done since the last call.

    Returns:
        Plain values: images, radius, and `Proportion.to_dict` for "clean", "pgd20" and "pgd50".
    """
    device = next(model.parameters()).device
    right = {"clean": 0, "pgd20": 0, "pgd50": 0}
    objectives: tuple[Objective, ...] = ("margin", "cross_entropy")

    def survivors(x: Tensor, y: Tensor, steps: int, starts: int, objective: Objective) -> Tensor:
        """Which of the images [n] are still classified right, as [n] bool."""
        if not len(x):
            return torch.ones(0, dtype=torch.bool, device=device)
        attack = pgd(
            model,
            x,
            y,
            radius=radius,
            steps=steps,
            starts=starts,
            objective=objective,
            seed=seed,
        )
        return ~attack.success

    for first in range(0, len(data), CHUNK):
        x = data.images[first : first + CHUNK].to(device, torch.float32) / 255.0  # [n, C, H, W]
        y = data.labels[first : first + CHUNK].to(device)  # [n]
        with torch.no_grad():
            kept = model(x).argmax(1) == y  # [n]
        x, y = x[kept], y[kept]
        right["clean"] += len(x)
        kept = survivors(x, y, 20, 1, "cross_entropy")
        x, y = x[kept], y[kept]
        right["pgd20"] += len(x)
        for starts in sorted({1, restarts}):  # one restart finds most, so that few pay for the rest
            for objective in objectives:
                kept = survivors(x, y, 50, starts, objective)
                x, y = x[kept], y[kept]
        right["pgd50"] += len(x)
        if on_images is not None:
            on_images(min(CHUNK, len(data) - first))
    share = {name: Proportion(count, len(data)).to_dict() for name, count in right.items()}
    return {
        "data": data.name,
        "split": data.split,
        "images": len(data),
        "radius": radius,
        "seed": seed,
        "clean": share["clean"],
        "pgd20": {"objectives": ["cross_entropy"], "restarts": 1, **share["pgd20"]},
        "pgd50": {"objectives": sorted(objectives), "restarts": restarts, **share["pgd50"]},
    }


def model_card(
    architecture: str,
    model: nn.Module,
    data: ImageDataset,
    recipe: Recipe,
    result: TrainingResult,
    test: dict[str, Any] | None,
) -> dict[str, Any]:
    """All that has to be known about trained weights, as values that JSON can hold.

    Args:
        architecture: name that `hcnn_fast.models.build` takes.
        model: the trained model.
        data: what it was trained on, held-out images included.
        recipe: how.
        result: what `train` returned.
        test: what `measure` returned for the test set; None if it was not measured.
    """
    best = result.history[result.best_epoch - 1]
    held = len(data) - result.train_images
    device = next(model.parameters()).device
    return {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": data.name,
        "train_images": result.train_images,
        "validation_images": held,
        "input_shape": list(data.images.shape[1:]),
        "bounds": [0.0, 1.0],
        "class_names": list(data.class_names),
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "best_epoch": result.best_epoch,
        "validation_clean": best.validation_clean if held else None,
        "validation_robust": best.validation_robust if held else None,
        "test": test,
        "training_seconds": round(result.seconds, 1),
        "device": device.type,
        "machine": platform.machine(),
        "arithmetic": "bfloat16" if use_bfloat16(recipe.precision, device) else "float32",
        "hcnn_fast": __version__,
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _commit() -> str | None:
    """The commit of the source tree that the package runs from; None for an installed copy."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        words = ["git", "-C", str(package), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != package.parent:
            return None
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
