"""What only one method of training has: frozen records that are valid once they exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from hcnn_fast.attacks.initial_points import Initialisation, check_initialisations
from hcnn_fast.training.fields import choice, integer, number

Transition = Literal["power", "exponential"]
SmoothedOver = Literal["all", "others", "adversarial", "boltzmann", "second_best"]

_Kind = TypeVar("_Kind", bound="Settings")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of all methods can do."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls: type[_Kind], values: Mapping[str, Any]) -> _Kind:
        """The inverse of `to_dict`; an unknown field raises ValueError."""
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"settings has {sorted(unknown)[0]!r}, expected fields of {cls.__name__}"
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Smoothing(Settings):
    """Which classes share what is taken from the label (Goibert and Dohmatob 2019).

    Attributes:
        over: "all" classes evenly, the label among them; the "others" evenly; of those the one of
            the smallest logit ("adversarial") or of the largest ("second_best"), or in proportion
            to exp(-Z_k / temperature) ("boltzmann", which tends to "adversarial" as the temperature
            falls and to "others" as it rises).
        temperature: of "boltzmann", > 0.
    """

    over: SmoothedOver = "all"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        choice("over", self.over, get_args(SmoothedOver))
        number("temperature", self.temperature, 0.0, math.inf, above=True)


@dataclass(frozen=True, kw_only=True)
class HalfAttacked(Settings):
    """The attack on half of each batch, `attacks.pgd_conf` (Stutz et al. 2020; AT-50%).

    Attributes:
        momentum: weight in [0, 1) of the steps before.
        backtracking: factor > 1 by which a step that lowers the objective is shortened; None: every
            step is taken.
        initialisations: where runs begin; one of them is drawn for each batch.
    """

    momentum: float = 0.9
    backtracking: float | None = 1.5
    initialisations: tuple[Initialisation, ...] = ("uniform_norm",)

    def __post_init__(self) -> None:
        number("momentum", self.momentum, 0.0, 1.0)
        if self.backtracking is not None:
            number("backtracking", self.backtracking, 1.0, math.inf, above=True)
        names = check_initialisations(self.initialisations, "linf")
        object.__setattr__(self, "initialisations", names)


@dataclass(frozen=True, kw_only=True)
class Calibration(HalfAttacked):
    """How confidence falls with the distance d of an attacked point (Stutz et al. 2020).

    Attributes:
        transition: share of the label in the target: "power" (1 - min(1, d / radius))^rho, or
            "exponential" exp(-rho d), which never ends in the uniform distribution.
        rho: > 0.
    """

    initialisations: tuple[Initialisation, ...] = ("gaussian", "uniform_norm", "zero")
    transition: Transition = "power"
    rho: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("transition", self.transition, get_args(Transition))
        number("rho", self.rho, 0.0, math.inf, above=True)


@dataclass(frozen=True, kw_only=True)
class Trades(Settings):
    """Weight and first points of TRADES (Zhang et al. 2019).

    Attributes:
        beta: weight of the divergence KL(F(x) || F(x')) beside the cross-entropy of x.
        start_deviation: > 0, standard deviation of the Gaussian start around x; at x itself the
            gradient of the divergence is 0.
    """

    beta: float = 6.0
    start_deviation: float = 0.001

    def __post_init__(self) -> None:
        number("beta", self.beta, 0.0, math.inf)
        number("start_deviation", self.start_deviation, 0.0, math.inf, above=True)


@dataclass(frozen=True, kw_only=True)
class VirtualAdversarial(Settings):
    """The smoothness that virtual adversarial training asks for (Miyato et al. 2018).

    Attributes:
        l2_radius: > 0, length of the perturbation, in input units.
        weight: of the divergence KL(F(x) || F(x + r)) beside the cross-entropy of x.
        power_iterations: >= 1, in search of the direction in which the divergence bends most.
    """

    l2_radius: float = 2.0
    weight: float = 1.0
    power_iterations: int = 1

    def __post_init__(self) -> None:
        number("l2_radius", self.l2_radius, 0.0, math.inf, above=True)
        number("weight", self.weight, 0.0, math.inf)
        integer("power_iterations", self.power_iterations, 1)


@dataclass(frozen=True, kw_only=True)
class OnManifold(Settings):
    """Which manifold half of each batch is moved along, and how far (Stutz et al. 2019).

    Attributes:
        manifold: name of a known one, as of the data set that lies on it ("glyphs-hard"), or the
            `.safetensors` file of a learned one.
        latent_radius: l_inf radius eta > 0 of the attack, in latent units.
    """

    manifold: str = "glyphs-hard"
    latent_radius: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.manifold, str) or not self.manifold:
            raise TypeError(f"manifold is {self.manifold!r}, expected a name or the path of a file")
        number("latent_radius", self.latent_radius, 0.0, math.inf, above=True)


SETTINGS: dict[str, type[Settings]] = {
    "label-smoothing": Smoothing,
    "at50": HalfAttacked,
    "ccat": Calibration,
    "trades": Trades,
    "vat": VirtualAdversarial,
    "on-manifold": OnManifold,
}
