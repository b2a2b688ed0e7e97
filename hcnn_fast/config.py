"""What a search does: `SearchConfig`, a frozen record that is valid once it exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

Objective = Literal["mcn", "hcnn", "ncn", "entropy"]
Norm = Literal["l1", "l2", "linf"]
Schedule = Literal["constant", "decay"]
Precision = Literal["float32", "bfloat16", "float16", "auto"]
BackendName = Literal["auto", "reference", "cpu", "cuda", "triton"]


def _fail(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} is {value!r}, expected {expected}")


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected {expected}")
    if math.isnan(value):
        raise _fail(name, value, expected)
    return float(value)


def _integer(name: str, value: object, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected {expected}")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _fail(name, value, "one of " + ", ".join(repr(c) for c in choices))


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search problem and the way it is solved; build it with `mcn`, `hcnn`, `ncn` or `entropy`.

    Distances and radii are in the units of the model's input (pixels in [0, 1] by default).

    Attributes:
        objective: "mcn", "hcnn", "ncn" (Wu et al. 2018, section 4) or "entropy" (section 4.1).
        radius: xi > 0, the l_inf radius searched around each image.
        distance_weight: lambda >= 0 of HCNN; 0 elsewhere.
        distance_norm: norm of the distance that HCNN weighs and NCN minimises.
        confidence: p of NCN in (0, 1); None elsewhere.
        order: order of the entropy (1 Shannon, any other value >= 0 Renyi); None elsewhere.
        steps: gradient steps of a run. HCNN with distance_weight > 0 and NCN make two runs: first
            to the most confident point of the ball, then from there for their own objective.
        step_size: length of the first step; None: radius / 2 for "decay", 2.5 * radius / steps
            for "constant".
        momentum: factor in [0, 1) on the accumulated gradient, each gradient divided by its
            largest magnitude before it is added.
        schedule: "constant", or "decay": step t of T has length step_size * (1 - t / T).
        starts: runs per label; the first starts at the image, the others at random points.
        seed: seed of the random starts.
        labels: labels tried: None for all, or the k likeliest at the image.
        bounds: smallest and largest value that an input may take.
        precision: arithmetic of the model in the search; the answer is always scored in float32,
            and with a tolerance the best runs make their last few steps in it.
            Whether a GPU multiplies float32 as TF32 is torch's setting for the whole process (it
            does in convolutions unless told otherwise): the search keeps to it and never sets it;
            `build_info` tells it.
        backend: implementation of the fused operations; "auto" takes the fastest that can run.
        tolerance: objective that may be given up to stop early; 0: stop only where nothing changes.
            With more, labels that cannot win by more are not climbed for, runs end where less is in
            reach (see `engine.headroom` for what that rests on), and a label that leads is climbed
            for from several starts.
        batch_size: largest number of candidates that pass the model at once; None: planned.
        memory_budget: largest number of bytes that the search adds to what is in use when it is
            called (model, images), at any time, its result included; None: no limit. Batches and
            the images searched together become smaller to stay within it, never larger, and freed
            memory goes back to the system.
        keep_points: keep the best point of every label in the result.
        compile: let torch.compile make the model's passes, which takes its time at the first
            search and is kept for later ones of the same model; `hcnn-fast bench --compile` tells
            whether it pays. Where it fails, the search does.

    Raises:
        TypeError, ValueError: a field has the wrong type or value; the message names the field.
    """

    objective: Objective
    radius: float
    distance_weight: float = 0.0
    distance_norm: Norm = "linf"
    confidence: float | None = None
    order: float | None = None
    steps: int = 20
    step_size: float | None = None
    momentum: float = 0.5
    schedule: Schedule = "decay"
    starts: int = 1
    seed: int = 0
    labels: int | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    precision: Precision = "float32"
    backend: BackendName = "auto"
    tolerance: float = 0.0
    batch_size: int | None = None
    memory_budget: int | None = None
    keep_points: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        _choice("objective", self.objective, get_args(Objective))
        _choice("distance_norm", self.distance_norm, get_args(Norm))
        _choice("schedule", self.schedule, get_args(Schedule))
        _choice("precision", self.precision, get_args(Precision))
        _choice("backend", self.backend, get_args(BackendName))
        self._check_problem()
        self._check_run()

    def _check_problem(self) -> None:
        radius = _number("radius", self.radius, "a finite number > 0")
        if not 0.0 < radius < math.inf:
            raise _fail("radius", self.radius, "a finite number > 0")
        weight = _number("distance_weight", self.distance_weight, "a finite number >= 0")
        if not 0.0 <= weight < math.inf:
            raise _fail("distance_weight", self.distance_weight, "a finite number >= 0")
        if weight > 0.0 and self.objective != "hcnn":
            raise _fail("distance_weight", weight, f"0 for objective {self.objective!r}")
        if self.objective == "ncn":
            confidence = _number("confidence", self.confidence, "a number in (0, 1)")
            if not 0.0 < confidence < 1.0:
                raise _fail("confidence", self.confidence, "a number in (0, 1)")
        elif self.confidence is not None:
            raise _fail("confidence", self.confidence, f"None for objective {self.objective!r}")
        if self.objective == "entropy":
            order = _number("order", self.order, "a number >= 0")
            if not 0.0 <= order <= math.inf:
                raise _fail("order", self.order, "a number >= 0")
            if self.labels is not None:
                raise _fail("labels", self.labels, "None: entropy search tries no labels")
        elif self.order is not None:
            raise _fail("order", self.order, f"None for objective {self.objective!r}")
        if not isinstance(self.bounds, (tuple, list)) or len(self.bounds) != 2:
            raise TypeError(f"bounds is {self.bounds!r}, expected a pair (lowest, highest)")
        low, high = (_number("bounds", b, "two finite numbers") for b in self.bounds)
        if not -math.inf < low < high < math.inf:
            raise _fail("bounds", self.bounds, "(lowest, highest), finite, lowest < highest")
        object.__setattr__(self, "bounds", (low, high))

    def _check_run(self) -> None:
        if _integer("steps", self.steps, "an int >= 1") < 1:
            raise _fail("steps", self.steps, "an int >= 1")
        if self.step_size is not None:
            size = _number("step_size", self.step_size, "None or a finite number > 0")
            if not 0.0 < size < math.inf:
                raise _fail("step_size", self.step_size, "None or a finite number > 0")
        if not 0.0 <= _number("momentum", self.momentum, "a number in [0, 1)") < 1.0:
            raise _fail("momentum", self.momentum, "a number in [0, 1)")
        if not 1 <= _integer("starts", self.starts, "an int >= 1") < 2**31:
            raise _fail("starts", self.starts, "an int >= 1 and < 2**31")
        if not 0 <= _integer("seed", self.seed, "an int >= 0") < 2**63:
            raise _fail("seed", self.seed, "an int >= 0 and < 2**63")
        if self.labels is not None and _integer("labels", self.labels, "None or an int >= 1") < 1:
            raise _fail("labels", self.labels, "None or an int >= 1")
        tolerance = _number("tolerance", self.tolerance, "a finite number >= 0")
        if not 0.0 <= tolerance < math.inf:
            raise _fail("tolerance", self.tolerance, "a finite number >= 0")
        batch = 1 if self.batch_size is None else self.batch_size
        if _integer("batch_size", batch, "None or an int >= 1") < 1:
            raise _fail("batch_size", batch, "None or an int >= 1")
        budget = 1 if self.memory_budget is None else self.memory_budget
        if _integer("memory_budget", budget, "None or an int >= 1 (bytes)") < 1:
            raise _fail("memory_budget", budget, "None or an int >= 1 (bytes)")
        for name in ("keep_points", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}, expected True or False")

    @classmethod
    def mcn(cls, radius: float, **keywords: Any) -> SearchConfig:
        """Most confident neighbour: argmax over z in N(x, xi) of ||F(z)||_inf (section 4)."""
        return cls(objective="mcn", radius=radius, **keywords)

    @classmethod
    def hcnn(
        cls,
        radius: float,
        distance_weight: float,
        distance_norm: Norm = "linf",
        **keywords: Any,
    ) -> SearchConfig:
        """Highly confident near neighbour: argmax of ||F(z)||_inf - lambda |z - x| (section 4)."""
        return cls(
            objective="hcnn",
            radius=radius,
            distance_weight=distance_weight,
            distance_norm=distance_norm,
            **keywords,
        )

    @classmethod
    def ncn(
        cls,
        radius: float,
        confidence: float,
        distance_norm: Norm = "linf",
        **keywords: Any,
    ) -> SearchConfig:
        """Nearest confident neighbour: argmin of |z - x| with ||F(z)||_inf >= p (section 4)."""
        return cls(
            objective="ncn",
            radius=radius,
            confidence=confidence,
            distance_norm=distance_norm,
            **keywords,
        )

    @classmethod
    def entropy(cls, radius: float, order: float = 1.0, **keywords: Any) -> SearchConfig:
        """Point of lowest Shannon (order 1) or Renyi entropy in the ball (section 4.1)."""
        return cls(objective="entropy", radius=radius, order=order, **keywords)

    def replace(self, **changes: Any) -> SearchConfig:
        """A copy with some fields changed, checked anew."""
        unknown = changes.keys() - {f.name for f in fields(self)}
        if unknown:
            raise TypeError(f"SearchConfig has no field {sorted(unknown)[0]!r}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values that JSON can hold (an infinite order becomes "inf")."""
        values = asdict(self)
        values["bounds"] = list(self.bounds)
        if self.order == math.inf:
            values["order"] = "inf"
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchConfig:
        """The inverse of `to_dict`; unknown or missing fields raise ValueError."""
        if not isinstance(values, Mapping):
            raise TypeError(f"values is a {type(values).__name__}, expected a mapping of fields")
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise _fail("from_dict key", sorted(unknown)[0], "a field of SearchConfig")
        for required in ("objective", "radius"):
            if required not in values:
                raise ValueError(f"from_dict: the field {required!r} is missing")
        known = dict(values)
        if known.get("order") == "inf":
            known["order"] = math.inf
        return cls(**known)

    def step_sizes(self, *, second_run: bool = False) -> tuple[float, ...]:
        """Length of each gradient step of a run, in input units.

        With "decay", HCNN's second run begins with half of the length and decays with the square
        of the time left: it looks near the point that the first run found, and settles.
        """
        count = self.steps
        if self.schedule == "constant":
            size = 2.5 * self.radius / count if self.step_size is None else self.step_size
            return (size,) * count
        first = 0.5 * self.radius if self.step_size is None else self.step_size
        if second_run:
            return tuple(0.5 * first * (1.0 - t / count) ** 2 for t in range(count))
        return tuple(first * (1.0 - t / count) for t in range(count))
