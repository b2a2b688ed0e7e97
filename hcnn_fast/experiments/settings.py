"""How an experiment is run: the papers' budgets and radii, and those for other data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

# The largest radius of the paper's tables, which its text takes for the training radius of its
# adversarially trained model ("8/256 ~ .030").
PAPER_TRAINING_RADIUS = 0.03
# l_inf radii that adversarial training on these data usually takes, in units of the input's range:
# Madry et al. (2018) on MNIST, and the models that ship with this package.
TRAINING_RADIUS: Mapping[str, float] = {
    "cifar10": PAPER_TRAINING_RADIUS,
    "mnist": 0.3,
    "fashion-mnist": 0.1,
    "fashion-mnist-sample": 0.1,
}
SMALL = ("fashion-mnist-sample",)  # data sets that are looked at with the small budget


@dataclass(frozen=True)
class Budget:
    """What an experiment may spend.

    Attributes:
        points: images attacked.
        steps: gradient steps of a run of the attack.
        starts: runs of the attack for each image and class.
        search_steps: gradient steps for each label of the defence's search.
    """

    points: int
    steps: int
    starts: int
    search_steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """What an experiment that trains its models spends on each.

    Attributes:
        architecture: name for `models.build`.
        images: the first so many training images; None: all.
        epochs: passes over them.
    """

    architecture: str = "small-cnn"
    images: int | None = None
    epochs: int = 10

    def __post_init__(self) -> None:
        for name, least in (("images", 2), ("epochs", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} is {value!r}, expected an int >= {least}")
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, expected an int >= {least}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the rows of an experiment besides models and data.

    Attributes:
        data: name of the data set.
        radii: l_inf radii of the attacks, rising, in units of the input's range.
        paper_radii: for each the radius of the paper that it stands for; None where none does.
        confidences: the p that count.
        points, steps, starts, search_steps: see `Budget`.
        seed: seed of the choice of points and of the attacks' random starts.
        chunk: points of a chunk, the unit that is stored; changes no number.
        training: of the models that the experiment trains itself; None where it is given models.

    Raises:
        TypeError, ValueError: a field has the wrong type or value; the message names it.
    """

    data: str
    radii: tuple[float, ...]
    paper_radii: tuple[float | None, ...]
    confidences: tuple[float, ...]
    points: int
    steps: int
    starts: int
    search_steps: int
    seed: int = 0
    chunk: int = 8
    training: Training | None = None

    def __post_init__(self) -> None:
        for name in (*(f.name for f in fields(Budget)), "chunk", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is {value!r}, expected an int >= {least}")
            if value < least:
                raise ValueError(f"{name} is {value}, expected an int >= {least}")
        if not self.radii or any(not 0.0 < radius <= 1.0 for radius in self.radii):
            raise ValueError(f"radii is {list(self.radii)}, expected numbers in (0, 1]")
        if list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii is {list(self.radii)}, expected rising numbers")
        if len(self.paper_radii) != len(self.radii):
            raise ValueError(f"paper_radii is {self.paper_radii}, expected one for each radius")
        if any(not 0.0 < p < 1.0 for p in self.confidences):
            raise ValueError(f"confidences is {list(self.confidences)}, expected numbers in (0, 1)")

    def paper_radius(self, radius: float) -> float | None:
        """The radius of the paper that one of ours stands for."""
        return dict(zip(self.radii, self.paper_radii, strict=True)).get(radius)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def radius_scale(data: str) -> float:
    """By how much radii on these data are larger than the paper's on CIFAR-10."""
    return TRAINING_RADIUS.get(data, PAPER_TRAINING_RADIUS) / PAPER_TRAINING_RADIUS


def radii_for(
    data: str,
    paper: Sequence[float],
    asked: Sequence[float] | None,
) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """Our radii, rising, and for each the paper's radius that it stands for.

    Args:
        data: name of the data set; the paper's radii grow in proportion to its training radius.
        paper: the paper's radii.
        asked: radii to take in place of those; None for none.
    """
    scale = radius_scale(data)
    known = {float(f"{radius * scale:.2g}"): radius for radius in paper}
    radii = tuple(known) if asked is None else tuple(sorted(set(asked)))
    return radii, tuple(known.get(radius) for radius in radii)


def radius_text(data: str) -> str:
    """How the radii on these data come about, in words."""
    scale = radius_scale(data)
    if math.isclose(scale, 1.0):
        return "radii are the paper's"
    return (
        f"radii are the paper's times {scale:.3g}, in proportion to the training radii"
        f" ({TRAINING_RADIUS[data]:g} here, {PAPER_TRAINING_RADIUS:g} there)"
    )
