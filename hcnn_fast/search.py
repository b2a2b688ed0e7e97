"""The search: for every image the point of its ball where a label is most confident."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier, check_images, check_model
from hcnn_fast.engine.memory import plan_block
from hcnn_fast.engine.model import resolve_precision
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.engine.solver import Solver


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
    those that could still pass it; a run ends when too little is in reach, and one that used all
    its steps is made again with steps of half the length (see `engine.headroom`). The values of
    labels that were not climbed for are those at the image.

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
        images = check_images(x, config)
        classifier = check_model(model, images)
        with torch.autocast(images.device.type, enabled=False):  # precision is the config's
            return _search_blocks(classifier, images, config)


def _search_blocks(
    model: Classifier,
    x: Tensor,  # [N, *image]
    config: SearchConfig,
) -> SearchResult:
    """Go through the images in blocks, and join the results."""
    # No images: one blank one, cut off in the end, tells the shapes of the result.
    n, images, problem = len(x), x, config
    if not n:
        images = x.new_full((1, *x.shape[1:]), config.bounds[0])
        problem = config.replace(steps=1, starts=1)
    backend = backends.resolve(config.backend, x.device.type)
    precision = resolve_precision(config.precision, x)
    with prepared_model(model, precision, images[:1]) as prepared:
        batch = config.batch_size or prepared.planned_batch
        solver = Solver(prepared, problem, backend, batch)
        size = plan_block(images, solver.looker.tried * problem.starts, batch)
        blocks = [
            solver.solve(images[begin : begin + size]) for begin in range(0, len(images), size)
        ]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(block, name) for block in blocks])[:n]

    logits = joined("logits")
    label_value = joined("label_value")
    labels, label_prediction = joined("labels"), joined("label_prediction")
    prediction = joined("prediction")
    winner = joined("winner")[:, None]  # [N, 1]
    value = label_value.gather(1, winner)[:, 0]
    if config.objective == "entropy":
        labels, label = label_prediction.clone(), prediction.clone()
    else:
        label = labels.gather(1, winner)[:, 0].masked_fill(value == -math.inf, -1)
    return SearchResult(
        point=joined("point"),
        value=value.float(),
        label=label,
        prediction=prediction,
        confidence=torch.softmax(logits, 1).amax(1).float(),
        logits=logits,
        labels=labels,
        label_value=label_value.float(),
        label_confidence=joined("label_confidence"),
        label_prediction=label_prediction,
        label_point=joined("label_point") if config.keep_points else None,
        steps=joined("steps"),
        forwards=solver.forwards if n else 0,
        backwards=solver.backwards if n else 0,
    )
