"""How the on-manifold experiment is run: which models it trains, and how each is measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hcnn_fast.training import HalfAttacked, OnManifold, Recipe
from hcnn_fast.training.fields import integer, number

NORMAL, REGULAR, ON_MANIFOLD = "normal", "regular AT", "on-manifold AT"
METHODS = (NORMAL, REGULAR, ON_MANIFOLD)


@dataclass(frozen=True, kw_only=True)
class OnManifoldSettings:
    """Everything that decides the numbers of the experiment besides the data.

    Attributes:
        data: "glyphs-easy", "glyphs-moderate" or "glyphs-hard" (known manifolds), or "mnist" or
            "fashion-mnist", whose manifold is learned first.
        counts: numbers of training images N, rising.
        seeds: models of each method and N: another draw of weights, order and training images.
        updates: steps of SGD of each model, the same for every N.
        batch_size: images of a step.
        learning_rate: largest of the one-cycle schedule.
        radius: l_inf radius of regular examples, in training and test.
        latent_radius: l_inf radius of on-manifold examples, in training and test.
        training_steps: gradient steps of the attacks in training.
        points: first test images attacked.
        steps, starts: gradient steps and restarts of both attacks on them.
        test_images: first test images that the test error is of.
        samples: training images among which neighbours are looked for.
        projected: points that are projected onto the manifold by optimisation.
        manifold_epochs: passes over the training images of a learned manifold.
        seed: of everything.

    Raises:
        TypeError, ValueError: a field has the wrong type or value; the message names the field.
    """

    data: str = "glyphs-hard"
    counts: tuple[int, ...] = (250, 1000, 4000)
    seeds: int = 3
    updates: int = 300
    batch_size: int = 100
    learning_rate: float = 0.05
    radius: float = 0.1
    latent_radius: float = 0.3
    training_steps: int = 5
    points: int = 100
    steps: int = 20
    starts: int = 2
    test_images: int = 5000
    samples: int = 10_000
    projected: int = 16
    manifold_epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"seed": 0, "batch_size": 2, "samples": 2}
        for name, value in asdict(self).items():
            if isinstance(value, int):
                integer(name, value, least.get(name, 1))
        for name in ("learning_rate", "radius", "latent_radius"):
            number(name, getattr(self, name), 0.0, math.inf, above=True)
        counts = list(self.counts)
        if not counts or any(not isinstance(n, int) or n < 2 for n in counts):
            raise ValueError(f"counts is {counts}, expected ints >= 2")
        if counts != sorted(set(counts)):
            raise ValueError(f"counts is {counts}, expected rising numbers")
        for few, many in (("projected", "points"), ("points", "test_images")):
            most = getattr(self, many)
            if getattr(self, few) > most:
                raise ValueError(f"{few} is {getattr(self, few)}, expected at most {many}, {most}")

    def cells(self) -> tuple[Cell, ...]:
        """Every model that is trained: the first seed of all, then the next."""
        return tuple(
            Cell(method, count, seed)
            for seed in range(self.seeds)
            for count in self.counts
            for method in METHODS
        )

    def recipe(self, cell: Cell, manifold: str) -> Recipe:
        """How a model is trained; methods differ in nothing but the attacked half of a batch.

        Args:
            cell: which model.
            manifold: for `manifold_of`.
        """
        batch = min(self.batch_size, cell.count)
        epochs = max(1, -(-self.updates // -(-cell.count // batch)))
        fields: dict[str, Any] = {"method": "natural", "radius": 0.0}
        if cell.method == REGULAR:
            # From the whole radius at once, small networks learn nothing at all.
            warmup = {"radius": self.radius, "radius_warmup_epochs": epochs / 2}
            fields = {"method": "at50", "settings": HalfAttacked(), **warmup}
        elif cell.method == ON_MANIFOLD:
            moved = OnManifold(manifold=manifold, latent_radius=self.latent_radius)
            fields = {"method": "on-manifold", "radius": 0.0, "settings": moved}
        return Recipe(
            **fields,
            attack_steps=self.training_steps,
            epochs=epochs,
            batch_size=batch,
            learning_rate=self.learning_rate,
            average_decay=0.0,
            flip=False,
            validation_images=0,
            precision="float32",
            seed=self.seed * 1000 + cell.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**asdict(self), "counts": list(self.counts)}


@dataclass(frozen=True)
class Cell:
    """One model of the experiment.

    Attributes:
        method: one of `METHODS`.
        count: its number of training images N.
        seed: which of the models of this method and N, from 0.
    """

    method: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        """As a name of files."""
        return f"{self.method.replace(' ', '-')}-{self.count}-{self.seed}"
