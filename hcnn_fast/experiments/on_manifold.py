"""Stutz et al. 2019: models of several methods and numbers of images, trained and measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hcnn_fast import data as datasets
from hcnn_fast._version import __version__
from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments.chunks import CHUNKS
from hcnn_fast.experiments.experiment import Heading
from hcnn_fast.experiments.on_manifold_measures import Ground, Measures, ground_of, measure
from hcnn_fast.experiments.on_manifold_settings import Cell, OnManifoldSettings
from hcnn_fast.manifolds import Coded, LearnedManifold, Manifold, coded_glyphs, manifold_of
from hcnn_fast.manifolds.glyphs import PREFIX
from hcnn_fast.models.small_cnn import SmallCNN
from hcnn_fast.training import VaeRecipe, save_weights, train, train_class_vae
from hcnn_fast.training.run import CHECKPOINT
from hcnn_fast.training.streams import generator_of

NAME = "on-manifold"
HEADING = Heading(
    name=NAME,
    title="On-manifold adversarial examples: robustness and generalization",
    question="Do regular adversarial examples leave the manifold, do others exist on it, and are"
    " these what generalization is about (Stutz, Hein and Schiele 2019)?",
)
MANIFOLD, VAE = "manifold.safetensors", "manifold.pt"
WIDTHS = (16, 32, 64)  # of the convolutions of each model


@dataclass(frozen=True, kw_only=True)
class Study:
    """The experiment on data that have passed their checks.

    Attributes:
        settings: how.
        train, test: the data.
        device: where everything runs.
    """

    settings: OnManifoldSettings
    train: ImageDataset
    test: ImageDataset
    device: torch.device

    @classmethod
    def load(
        cls,
        settings: OnManifoldSettings,
        device: torch.device,
        *,
        data_root: Path | None = None,
        download: bool = False,
    ) -> Study:
        """Load and check the data.

        Raises:
            FileNotFoundError, ImportError, ValueError: see `data.load`; or images of another shape,
                or fewer than are asked for.
        """
        train = datasets.load(settings.data, "train", data_root, download)
        test = datasets.load(settings.data, "test", data_root, download)
        shape = list(train.images.shape[1:])
        if shape != [1, 28, 28]:
            raise ValueError(f"{settings.data} has images {shape}, expected [1, 28, 28]")
        most = max(*settings.counts, settings.samples)
        if most > len(train):
            raise ValueError(f"{settings.data} has {len(train)} training images, expected {most}")
        if max(settings.points, settings.test_images) > len(test):
            raise ValueError(
                f"{settings.data} has {len(test)} test images, expected"
                f" {max(settings.points, settings.test_images)}"
            )
        return cls(settings=settings, train=train, test=test, device=device)

    @property
    def known(self) -> bool:
        """Whether the manifold is known, and not learned."""
        return self.settings.data.startswith(PREFIX)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the numbers, as plain values."""
        content = {
            data.split: hashlib.sha256(data.images.contiguous().numpy().tobytes()).hexdigest()
            for data in (self.train, self.test)
        }
        return {
            "experiment": NAME,
            "settings": self.settings.to_dict(),
            "data": content,
            "hcnn_fast": __version__,
            "torch": torch.__version__,
            "device": self.device.type,
        }


def run_cells(
    study: Study,
    folder: Path,
    *,
    seconds: float | None = None,
    advance: Callable[[int], None],
) -> None:
    """Train and measure every model that is missing, until time is up.

    A killed run goes on in the epoch of the model, or of the learned manifold, that it was at.

    Args:
        study: the experiment.
        folder: where everything is kept.
        seconds: time to spend; at least one model is made. None: no limit.
        advance: called with the number of models done, those found in the folder included.
    """
    began = time.monotonic()
    ground: Ground | None = None
    (folder / CHUNKS).mkdir(parents=True, exist_ok=True)
    for cell in study.settings.cells():
        path = _path(folder, cell)
        if path.is_file():
            advance(1)
            continue
        name = study.settings.data if study.known else str(folder / MANIFOLD)
        if ground is None:
            ground = _ground(study, folder)
        measure(_model(study, cell, name, folder), ground, study.settings).write(path)
        (folder / CHUNKS / cell.name / CHECKPOINT).unlink()
        advance(1)
        if seconds is not None and time.monotonic() - began >= seconds:
            return


def measured_cells(study: Study, folder: Path) -> Mapping[Cell, Measures]:
    """The models that are done.

    Raises:
        ValueError: a file cannot be read.
    """
    paths = {cell: _path(folder, cell) for cell in study.settings.cells()}
    return {cell: Measures.read(path) for cell, path in paths.items() if path.is_file()}


def _path(folder: Path, cell: Cell) -> Path:
    return folder / CHUNKS / f"{cell.name}.npz"


def _model(study: Study, cell: Cell, manifold: str, folder: Path) -> torch.nn.Module:
    """A trained model, in eval mode; each seed draws its own images, the same for all methods."""
    settings = study.settings
    recipe = settings.recipe(cell, manifold)
    order = torch.randperm(len(study.train), generator=generator_of("images", recipe.seed))
    chosen = order[: cell.count]  # [N]
    images = ImageDataset(
        study.train.images[chosen],
        study.train.labels[chosen],
        study.train.class_names,
        study.train.name,
        study.train.split,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        model = SmallCNN(study.train.classes, WIDTHS)
    output = folder / CHUNKS / cell.name
    output.mkdir(exist_ok=True)
    resume = (output / CHECKPOINT).is_file()
    train(model, images, recipe, output, resume=resume, device=study.device)
    return model.eval()


def _ground(study: Study, folder: Path) -> Ground:
    """The manifold, learned if it has to be, and the points on it."""
    settings, device = study.settings, study.device
    test = study.test.first(settings.points)
    manifold: Manifold
    if study.known:
        manifold = manifold_of(settings.data, device)
        variant = settings.data.removeprefix(PREFIX)
        made = coded_glyphs(
            variant,  # type: ignore[arg-type]  # the name of a data set that was loaded
            "test",
            images=settings.points,
        )
        coded = Coded(made.coded.code.to(device), made.coded.condition.to(device))
    else:
        manifold = _learned(study, folder)
        coded = manifold.encode(test.scaled().to(device), test.labels.to(device))
    return ground_of(manifold, study.train, study.test.first(settings.test_images), coded, settings)


def _learned(study: Study, folder: Path) -> LearnedManifold:
    """The manifold in the folder, trained first where it is missing."""
    path = folder / MANIFOLD
    if not path.is_file():
        recipe = VaeRecipe(epochs=study.settings.manifold_epochs, seed=study.settings.seed)
        made = train_class_vae(study.train, recipe, folder / VAE, device=study.device)
        save_weights(path, made.vae.state_dict(), made.card())
        (folder / VAE).unlink()
    found = manifold_of(str(path), study.device)
    assert isinstance(found, LearnedManifold)
    return found
