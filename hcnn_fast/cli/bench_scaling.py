"""How the cost of a search grows with each of its sizes, the others held."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from hcnn_fast.cli.classifiers import LoadedClassifier
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import as_logits
from hcnn_fast.measurement import time_rounds
from hcnn_fast.search import SearchResult, search

HELD_IMAGES = 16  # where another size grows
STARTS = 4
CLASS_FACTORS = (1, 10, 100)
UNLIKELY = -30.0  # logit of a class that is added to a model


@dataclass(frozen=True)
class ScalingPoint:
    """The cost of one size.

    Attributes:
        model: its name.
        size: "images", "labels", "classes", "starts" or "steps".
        value: of that size.
        seconds: median over the rounds.
        gradient_steps: image passes backward that the search spent.
    """

    model: str
    size: str
    value: int
    seconds: float
    gradient_steps: int

    @property
    def microseconds_per_step(self) -> float:
        """Time per gradient step."""
        return 1e6 * self.seconds / max(1, self.gradient_steps)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the time per gradient step as plain values."""
        return asdict(self) | {"microseconds_per_gradient_step": self.microseconds_per_step}


@dataclass(frozen=True)
class PlannedPoint:
    """A search to be timed.

    Attributes:
        size, value: as in `ScalingPoint`.
        images: so many of those there are.
        classes: added to the model's own.
        config: the search.
    """

    size: str
    value: int
    images: int
    config: SearchConfig
    classes: int = 0


class WithMoreClasses(nn.Module):
    """A classifier with further classes that are never likely: more logits at the same work."""

    def __init__(self, model: nn.Module, more: int) -> None:
        super().__init__()
        self.model = model
        self.more = more

    def forward(
        self,
        z: Tensor,  # [B, *image]
    ) -> Tensor:  # [B, C + more]
        """The model's logits, then the others."""
        return pad(as_logits(self.model(z), len(z)), (0, self.more), value=UNLIKELY)


def scaling_plan(
    config: SearchConfig,
    x: Tensor,  # [N, *image]
    classes: int,
) -> list[PlannedPoint]:
    """Every size in turn by powers of two up to that of the request (starts: up to STARTS).

    Classes grow by powers of ten; the labels tried stay those of the request.
    """
    labels = min(classes, config.labels or classes)
    held = min(HELD_IMAGES, len(x))
    plan = [PlannedPoint("images", n, n, config) for n in _doubling(len(x))]
    plan += [PlannedPoint("labels", k, held, config.replace(labels=k)) for k in _doubling(labels)]
    for factor in CLASS_FACTORS:
        more = (factor - 1) * classes
        tried = config.replace(labels=labels)
        plan.append(PlannedPoint("classes", classes + more, held, tried, classes=more))
    plan += [PlannedPoint("starts", s, held, config.replace(starts=s)) for s in _doubling(STARTS)]
    plan += [
        PlannedPoint("steps", k, held, config.replace(steps=k)) for k in _doubling(config.steps)
    ]
    return plan


def measure_scaling(
    classifier: LoadedClassifier,
    x: Tensor,  # [N, *image]
    plan: list[PlannedPoint],
    rounds: int,
    advance: Callable[[int], None],
) -> list[ScalingPoint]:
    """Time every point of a plan, each after a warm-up on one image.

    Args:
        classifier: the model.
        x: at least as many images as the plan needs.
        plan: what to time.
        rounds: repetitions.
        advance: called with 1 after each point.
    """
    points = []
    for planned in plan:
        model = classifier.model
        if planned.classes:
            model = WithMoreClasses(model, planned.classes).eval()
        images = x[: planned.images]
        search(model, images[:1], planned.config)
        found: list[SearchResult] = []

        def job(
            model: nn.Module = model,
            images: Tensor = images,
            config: SearchConfig = planned.config,
            found: list[SearchResult] = found,
        ) -> None:
            found[:] = [search(model, images, config)]

        seconds = time_rounds(job, x.device, rounds=rounds)
        points.append(
            ScalingPoint(
                model=classifier.name,
                size=planned.size,
                value=planned.value,
                seconds=statistics.median(seconds),
                gradient_steps=found[0].backwards,
            )
        )
        advance(1)
    return points


def _doubling(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest itself."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest <= 1 else [*sizes, largest]
