"""What an experiment says of models that it trains itself, to compare ways of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hcnn_fast.data import mirrors
from hcnn_fast.experiments.settings import Settings, Training
from hcnn_fast.training import Recipe

# From a larger ball at once small-cnn stayed at a guess on MNIST (0.3, 8 epochs).
LARGEST_AT_ONCE = 0.1


@dataclass(frozen=True)
class Member:
    """A model of a family.

    Attributes:
        role: what sets it apart, in a few words.
        recipe: how it is trained.
    """

    role: str
    recipe: Recipe


@dataclass(frozen=True)
class Family:
    """Models that differ in how they are trained.

    Attributes:
        members: the models, of an experiment's settings; their `training` is there.
        training: what a thorough run spends on each.
    """

    members: Callable[[Settings], tuple[Member, ...]]
    training: Training


def recipe_fields(settings: Settings, radius: float = 0.0) -> dict[str, Any]:
    """What the recipes of a family have in common, for `Recipe`.

    Args:
        settings: of the experiment, with `training`.
        radius: of the examples trained on; a large one grows over the first half of the epochs.
    """
    assert settings.training is not None, "an experiment with a family has it"
    epochs = settings.training.epochs
    return {
        "radius": radius,
        "radius_warmup_epochs": epochs / 2 if radius > LARGEST_AT_ONCE else 0.0,
        "epochs": epochs,
        "flip": mirrors(settings.data),
        "seed": settings.seed,
    }
