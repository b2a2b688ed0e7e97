"""Attacks in the l_inf ball by name, on models and on defences, with the settings they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from hcnn_fast.attacks.apgd import AutoObjective, apgd_targeted
from hcnn_fast.attacks.confident import strengthened_pgd
from hcnn_fast.attacks.danskin import danskin_pgd
from hcnn_fast.attacks.defended import value_margin
from hcnn_fast.attacks.long_range import long_range
from hcnn_fast.attacks.pgd import Objective, pgd
from hcnn_fast.attacks.pgd_conf import ConfObjective, pgd_conf
from hcnn_fast.attacks.rays import rays
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.square import square
from hcnn_fast.attacks.target import ObjectiveName
from hcnn_fast.defense import Defense

# What some attacks take and others do not, and may be left to them.
SETTINGS = ("objective", "steps", "step_size", "momentum", "starts", "targets", "queries")


@dataclass(frozen=True)
class Method:
    """An attack on a classifier, or on a defence, in the l_inf ball.

    Attributes:
        attack: (model, x, y, *, radius, seed, bounds, backend, batch_size, ...) -> AttackResult.
        objectives: what it can raise, where that can be chosen by name.
        own_place: whether bounds and backend are those of the defence, and no arguments.
    """

    attack: Callable[..., AttackResult]
    objectives: tuple[str, ...] = ()
    own_place: bool = False

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


def _square_on_values(
    defense: Defense,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    *,
    queries: int = 5000,
    starts: int = 1,
    **common: Any,
) -> AttackResult:
    """`square`, raising the margin of the values that the defence's search attains."""
    margin = value_margin(defense)
    return square(defense, x, y, objective=margin, queries=queries, starts=starts, **common)


# On a `Defense` without threshold as a whole: it accepts everything, so that every error counts.
DEFENCE_METHODS: dict[str, Method] = {
    "danskin": Method(danskin_pgd, own_place=True),
    "long-range": Method(long_range, own_place=True),
    "square": Method(_square_on_values),
    "rays": Method(rays),
}
