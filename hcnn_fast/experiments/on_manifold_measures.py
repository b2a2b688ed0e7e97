"""One model of the on-manifold experiment: what both attacks make of it, point by point."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from hcnn_fast.atomic_files import write_atomically
from hcnn_fast.attacks import pgd
from hcnn_fast.data import ImageDataset
from hcnn_fast.experiments.attempts import logits_of
from hcnn_fast.experiments.on_manifold_settings import OnManifoldSettings
from hcnn_fast.manifolds import (
    Coded,
    Manifold,
    Tangent,
    manifold_distance,
    on_manifold,
    project,
    tangents,
)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all models of a run are measured on.

    Attributes:
        manifold: of the images.
        test: test images; the first of them are attacked.
        coded: [P] where those lie.
        images: [P, *image] the images of these codes; on a learned manifold, reconstructions.
        tangent: [P] the span of the training images near each of them.
    """

    manifold: Manifold
    test: ImageDataset
    coded: Coded
    images: Tensor
    tangent: Tangent

    @property
    def labels(self) -> Tensor:  # [P]
        """The classes of the points."""
        return self.test.labels[: len(self.images)].to(self.images.device)


@dataclass(frozen=True, kw_only=True)
class Measures:
    """A model's answers; of P points, and of the first Q of them where projected.

    A point counts for success rates only if its image of the manifold is classified right.

    Attributes:
        wrong: [T] bool, test images classified wrong.
        right: [P] bool, images of the manifold classified right.
        off, on: [P, S] bool, whether each restart of the regular and the on-manifold attack
            succeeded.
        off_size: [P] l2 size of the regular perturbation.
        image_residual: [P] distance of the image from the span of its neighbours.
        off_residual, on_residual: [P] the same of the attacked images.
        off_angle, on_angle: [P] radians between perturbation and span; NaN where there is none.
        off_projected, on_projected: [Q] distance from the manifold by projection onto it.
    """

    wrong: Tensor
    right: Tensor
    off: Tensor
    on: Tensor
    off_size: Tensor
    image_residual: Tensor
    off_residual: Tensor
    on_residual: Tensor
    off_angle: Tensor
    on_angle: Tensor
    off_projected: Tensor
    on_projected: Tensor

    def write(self, path: Path) -> None:
        """Store all of it as one npz file, all or nothing."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}
        content = io.BytesIO()
        numpy.savez_compressed(content, allow_pickle=False, **arrays)
        write_atomically(path, lambda file: file.write(content.getvalue()))

    @classmethod
    def read(cls, path: Path) -> Measures:
        """The inverse of `write`.

        Raises:
            ValueError: the file cannot be read or lacks something.
        """
        try:
            with path.open("rb") as file, numpy.load(file, allow_pickle=False) as arrays:
                return cls(**{f.name: torch.from_numpy(arrays[f.name]) for f in fields(cls)})
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it") from error


def ground_of(
    manifold: Manifold,
    train: ImageDataset,
    test: ImageDataset,
    coded: Coded,
    settings: OnManifoldSettings,
) -> Ground:
    """The points of a run, their images on the manifold, and their neighbours.

    Args:
        manifold: of the images.
        train: images among which neighbours are looked for.
        test: images that the error is of.
        coded: [P] codes of the first of them.
        settings: of the experiment.
    """
    with torch.no_grad():
        images = manifold.decode(coded.code, coded.condition)  # [P, *image]
    samples = train.images[: settings.samples].to(images.device)
    return Ground(
        manifold=manifold,
        test=test,
        coded=coded,
        images=images,
        tangent=tangents(images, samples, neighbours=min(50, len(samples))),
    )


def measure(model: nn.Module, ground: Ground, settings: OnManifoldSettings) -> Measures:
    """Attack a model off and along the manifold, by the same objective and with the same effort."""
    images, labels = ground.images, ground.labels
    device = images.device
    wrong = [
        logits_of(model, part.to(device, torch.float32) / 255.0).argmax(1).cpu()
        for part in torch.split(ground.test.images, 1000)
    ]
    # Restart by restart: the rate of the source is their mean, which a union does not tell.
    each = [
        pgd(
            model,
            images,
            labels,
            radius=settings.radius,
            steps=settings.steps,
            starts=1,
            objective="margin",
            seed=settings.seed + 1 + start,
        )
        for start in range(settings.starts)
    ]
    hits = torch.stack([found.success for found in each], 1)  # [P, S]
    values = torch.stack([found.value for found in each], 1)  # [P, S]
    best = values.argmax(1)  # [P] of the margin: above 0 where the attack succeeds
    row = torch.arange(len(images), device=device)
    off = torch.stack([found.point for found in each], 1)[row, best]  # [P, *image]
    on = on_manifold(
        model,
        ground.manifold.decode,
        ground.coded,
        labels,
        radius=settings.latent_radius,
        box=ground.manifold.box,
        steps=settings.steps,
        starts=settings.starts,
        objective="margin",
        seed=settings.seed,
    )
    far = manifold_distance(images, off, ground.tangent)
    near = manifold_distance(images, on.point, ground.tangent)
    return Measures(
        wrong=torch.cat(wrong) != ground.test.labels,
        right=logits_of(model, images).argmax(1) == labels,
        off=hits,
        on=on.hits,
        off_size=(off - images).flatten(1).norm(dim=1),
        image_residual=far.image,
        off_residual=far.perturbed,
        on_residual=near.perturbed,
        off_angle=far.angle,
        on_angle=near.angle,
        off_projected=_projected(off, ground, settings),
        on_projected=_projected(on.point, ground, settings),
    )


def _projected(
    points: Tensor,  # [P, *image]
    ground: Ground,
    settings: OnManifoldSettings,
) -> Tensor:  # [Q]
    """Distance of the first points from the surfaces of their classes."""
    first = slice(0, settings.projected)
    coded = Coded(ground.coded.code[first], ground.coded.condition[first])
    return project(
        points[first], ground.manifold.decode, coded, box=ground.manifold.box, seed=settings.seed
    ).residual
