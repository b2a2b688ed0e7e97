"""Which attacks are made, in which ball, and with which settings."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from hcnn_fast.attacks.checks import check_count, check_number
from hcnn_fast.attacks.named import DEFENCE_METHODS, METHODS, SETTINGS, Method
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier


@dataclass(frozen=True, kw_only=True)
class AttackPlan:
    """Attacks by name on the same ball.

    A setting that is None is each attack's own; another one goes to every attack that takes it.

    Attributes:
        methods: names out of `attacks.named.METHODS`, each once.
        radius: l_inf radius in input units.
        objective: what rises, for the attacks that know it.
        steps: gradient steps of each run.
        step_size: length of a step, or of the first.
        momentum: weight of the steps before.
        starts: runs per image, or per target.
        targets: so many of the likeliest wrong classes.
        queries: of attacks without gradients.
        seed: of random starts and choices.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the fused operations.
        batch_size: largest number of runs that pass the model at once; None: planned.
        search_radius: radius of the MCN search of a defence, which is attacked in the model's place
            by methods out of `attacks.named.DEFENCE_METHODS`; None: the model itself is.
        search_steps: gradient steps of that search; None: as `SearchConfig`.

    Raises:
        TypeError, ValueError: a setting is out of its range, or says nothing to any of the attacks.
    """

    methods: tuple[str, ...]
    radius: float
    objective: str | None = None
    steps: int | None = None
    step_size: float | None = None
    momentum: float | None = None
    starts: int | None = None
    targets: int | None = None
    queries: int | None = None
    seed: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)
    backend: BackendName = "auto"
    batch_size: int | None = None
    search_radius: float | None = None
    search_steps: int | None = None

    def __post_init__(self) -> None:
        self._check_methods()
        given = self._given()
        known = {name: given[name] for name in ("steps", "momentum", "starts") if name in given}
        SearchConfig.mcn(  # refuses what no attack can be made with
            self.radius,
            step_size=self.step_size,
            seed=self.seed,
            bounds=self.bounds,
            backend=self.backend,
            batch_size=self.batch_size,
            **known,
        )
        for name in ("targets", "queries"):
            if name in given:
                check_count(name, given[name])
        if self.search_radius is not None:
            check_number("search_radius", self.search_radius, 0.0, sys.float_info.max)
        if self.search_steps is not None:
            check_count("search_steps", self.search_steps)
            if self.search_radius is None:
                raise ValueError(
                    f"search_steps is {self.search_steps}, expected None without a search_radius"
                )
        for name, value in given.items():
            able = [key for key, method in self._known.items() if method.takes(name, value)]
            if not {*able} & {*self.methods}:
                raise ValueError(
                    f"{name} is {value!r}, which says nothing to {' or '.join(self.methods)};"
                    f" it is for {', '.join(able) or 'no attack'}"
                )

    def search_config(self) -> SearchConfig | None:
        """The search of the defence under attack, if one is."""
        if self.search_radius is None:
            return None
        steps = {} if self.search_steps is None else {"steps": self.search_steps}
        return SearchConfig.mcn(
            self.search_radius,
            bounds=self.bounds,
            backend=self.backend,
            batch_size=self.batch_size,
            **steps,
        )

    @property
    def _known(self) -> dict[str, Method]:
        return METHODS if self.search_radius is None else DEFENCE_METHODS

    def _check_methods(self) -> None:
        if not self.methods:
            raise ValueError(f"methods is {self.methods!r}, expected one name or more")
        for name in self.methods:
            if name not in self._known:
                known = ", ".join(self._known)
                raise ValueError(f"methods has {name!r}, expected names of {known}")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods is {', '.join(self.methods)}, expected each name once")

    def _given(self) -> dict[str, Any]:
        """The settings that are not left to the attacks."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    def settings_of(self, method: str) -> dict[str, Any]:
        """The keyword arguments of one attack, of those that not all take."""
        return self._known[method].settings(self._given())

    def run(
        self,
        model: Classifier,
        x: Tensor,  # [N, *image]
        y: Tensor,  # [N] int64
    ) -> dict[str, AttackResult]:
        """Every attack on the same images, by name.

        Args:
            model: what is attacked; the `Defense` where there is a search.
            x: the images, within the bounds.
            y: the classes to be lost.

        Raises:
            TypeError, ValueError, RuntimeError: as the attacks.
        """
        results = {}
        for name in self.methods:
            method = self._known[name]
            settings = self.settings_of(name)
            if not method.own_place:
                settings |= {"bounds": self.bounds, "backend": self.backend}
            results[name] = method.attack(
                model,
                x,
                y,
                radius=self.radius,
                seed=self.seed,
                batch_size=self.batch_size,
                **settings,
            )
        return results

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, the settings as each attack gets them."""
        fields, search = asdict(self), self.search_config()
        once = ("methods", "search_radius", "search_steps")
        common = {name: fields[name] for name in fields if name not in (*SETTINGS, *once)}
        return {
            **common,
            "search": None if search is None else search.to_dict(),
            "bounds": list(self.bounds),
            "methods": {method: self.settings_of(method) for method in self.methods},
        }
