"""What an experiment says of models that it trains itself, to compare ways of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hcnn_fast.experiments.settings import Settings, Training
from hcnn_fast.training import Recipe


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
