"""The search: for every image the point of its ball where a label is most confident."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.budget import planned_model
from hcnn_fast.engine.free_memory import (
    freed_memory_kept,
    freed_memory_returned,
    return_freed_memory,
)
from hcnn_fast.engine.inputs import Classifier, check_model, check_values, within_bounds
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import resolve_precision
from hcnn_fast.engine.solver import Solver, Winners


@dataclass(frozen=True)
class SearchResult:
    """What a search found, for N images, C classes and L labels tried.

    Attributes:
        point: [N, *image] z*, the winning point.
        value: [N] float32, the objective attained at z*: F_l for MCN, F_l - lambda |z* - x| for
            HCNN, -|z* - x| for NCN (-inf where no point is confident enough), -H(F) for entropy.
        label: [N] int64, the label whose run won; -1 where NCN found none; the prediction at z*
            for the entropy search.
        prediction: [N] int64, the likeliest class at z*.
        confidence: [N] float32, its probability.
        logits: [N, C], the model at z*: Gamma(x) = F(H(x)).
        labels: [N, L] int64, the labels tried, in rising order.
        label_value, label_confidence, label_prediction: [N, L], the same figures for each label.
        label_point: [N, L, *image], the best point of each label, or None.
        steps: [N] int64, gradient steps spent on each image.
        forwards, backwards: passes of single images through the model, in all, without the few
            that plan the search.
    """

    point: Tensor
    value: Tensor
    label: Tensor
    prediction: Tensor
    confidence: Tensor
    logits: Tensor
    labels: Tensor
    label_value: Tensor
    label_confidence: Tensor
    label_prediction: Tensor
    label_point: Tensor | None
    steps: Tensor
    forwards: int
    backwards: int


def search(model: Classifier, x: Tensor, config: SearchConfig) -> SearchResult:
    """Solve `config` for every image: Wu et al. 2018, section 4, all labels and starts in a batch.

    MCN and the entropy search make one run of `config.steps` steps per label and start: MCN climbs
    log F_l, which has the maximiser of F_l and no vanishing gradient. HCNN with distance_weight > 0
    makes a second run from the most confident point, which climbs F_l weighed against the
    distance. NCN makes a second run that approaches the image from the most confident point (see
    `engine.nearest`); it is always in float32. An image never gets a value below its own.

    With a tolerance, the most promising label of an image is climbed for first, and of the others
    those that could still pass it; a run ends when too little is in reach. A label that leads is
    climbed for several times, with steps of other lengths and from other starts, and some more
    where the two highest values differ; the best in a low precision make their last steps in
    float32 (see `engine.climber`). The values of labels that were not climbed for are those at the
    image.

    A module is prepared once and used again until something of it has changed.

    Args:
        model: nn.Module or callable giving logits [N, C]; its state is left as it is.
        x: [N, *image] float32 or float64 within `config.bounds`.
        config: what to search.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one candidate.
    """
    if not isinstance(config, SearchConfig):
        raise TypeError(f"config is a {type(config).__name__}, expected a SearchConfig")
    with torch.inference_mode(False), torch.enable_grad():
        images = check_values(x, config)
        classifier = check_model(model, images)
        with torch.autocast(images.device.type, enabled=False):  # precision is the config's
            return _search_blocks(classifier, images, config)


def _search_blocks(
    model: Classifier,
    x: Tensor,  # [N, *image]
    config: SearchConfig,
) -> SearchResult:
    """Go through the images in blocks; one that memory fails for is gone through in halves."""
    # No images: one blank one, cut off in the end, tells the shapes of the result.
    n, images, problem = len(x), x, config
    if not n:
        images = x.new_full((1, *x.shape[1:]), config.bounds[0])
        problem = config.replace(steps=1, starts=1)
    backend = backends.resolve(config.backend, x.device.type)
    precision = resolve_precision(config.precision, x)
    joined = _Joined(len(images))
    freed = freed_memory_kept if config.memory_budget is None else freed_memory_returned
    with freed(), planned_model(model, precision, problem, backend, images) as (prepared, plan):
        solver = Solver(prepared, problem, backend, plan.batch)

        def run(begin: int, end: int) -> None:
            winners = solver.solve(within_bounds(images[begin:end], config))
            joined.put(begin, _result_of(winners, config.objective == "entropy"))
            del winners
            if end < len(images):  # the next block takes as much as the first one
                return_freed_memory(slack=0)

        in_batches(len(images), plan.block, run)
    return joined.result(n)


def _result_of(block: Winners, entropy: bool) -> SearchResult:
    """What the search of a block says of its n images."""
    value = block.label_value.gather(1, block.winner[:, None])[:, 0]
    if entropy:
        labels, label = block.label_prediction, block.prediction
    else:
        labels = block.labels
        label = labels.gather(1, block.winner[:, None])[:, 0].masked_fill(value == -math.inf, -1)
    return SearchResult(
        point=block.point,
        value=value.float(),
        label=label,
        prediction=block.prediction,
        confidence=torch.softmax(block.logits, 1).amax(1).float(),
        logits=block.logits,
        labels=labels,
        label_value=block.label_value.float(),
        label_confidence=block.label_confidence,
        label_prediction=block.label_prediction,
        label_point=block.label_point,
        steps=block.steps,
        forwards=block.forwards,
        backwards=block.backwards,
    )


class _Joined:
    """The results of N images, block by block: memory for them is taken once, and no more."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._tensors: dict[str, Tensor] = {}
        self._forwards = self._backwards = 0

    def put(self, begin: int, part: SearchResult) -> None:
        """Keep the results of the images from `begin` on."""
        found = {field.name: getattr(part, field.name) for field in fields(part)}
        for name, rows in found.items():
            if not isinstance(rows, Tensor):
                continue
            if name not in self._tensors:
                self._tensors[name] = rows.new_empty((self._count, *rows.shape[1:]))
            self._tensors[name][begin : begin + len(rows)] = rows
        self._forwards += part.forwards
        self._backwards += part.backwards

    def result(self, count: int) -> SearchResult:
        """The results of the first `count` images; none of them took no passes."""
        kept: dict[str, Any] = {name: rows[:count] for name, rows in self._tensors.items()}
        return SearchResult(
            **{"label_point": None, **kept},
            forwards=self._forwards if count else 0,
            backwards=self._backwards if count else 0,
        )
