"""Attacks in the l_inf ball by name, with the settings that each of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from hcnn_fast.attacks.apgd import AutoObjective, apgd_targeted
from hcnn_fast.attacks.confident import strengthened_pgd
from hcnn_fast.attacks.pgd import Objective, pgd
from hcnn_fast.attacks.pgd_conf import ConfObjective, pgd_conf
from hcnn_fast.attacks.rays import rays
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.square import square
from hcnn_fast.attacks.target import ObjectiveName

# What some attacks take and others do not; the rest all of them take.
SETTINGS = ("objective", "steps", "step_size", "momentum", "starts", "targets", "queries")


@dataclass(frozen=True)
class Method:
    """An attack on a classifier in the l_inf ball.

    Attributes:
        attack: (model, x, y, *, radius, seed, bounds, backend, batch_size, ...) -> AttackResult.
        objectives: what it can raise, where that can be chosen by name.
    """

    attack: Callable[..., AttackResult]
    objectives: tuple[str, ...] = ()

    def takes(self, name: str, value: object) -> bool:
        """Whether a setting, or an objective of that name, says something to it."""
        if name == "objective":
            return value in self.objectives
        return name in inspect.signature(self.attack).parameters

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its arguments out of SETTINGS: those given that it takes, and its own defaults."""
        parameters = inspect.signature(self.attack).parameters
        own = {name: parameters[name].default for name in SETTINGS if name in parameters}
        return own | {name: value for name, value in given.items() if self.takes(name, value)}


METHODS: dict[str, Method] = {
    "pgd": Method(pgd, get_args(Objective)),
    "apgd": Method(apgd_targeted, get_args(AutoObjective)),
    "confident": Method(strengthened_pgd),
    "pgd-conf": Method(
        pgd_conf,
        # "distal" takes no notice of the label that is to be lost
        tuple(name for name in get_args(ConfObjective) if name != "distal"),
    ),
    "square": Method(square, get_args(ObjectiveName)),
    "rays": Method(rays),
}
