"""The search: for every image the point of its ball where a label is most confident."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier, check_finite, check_images, check_model
from hcnn_fast.engine.memory import in_batches, plan_batch_size
from hcnn_fast.engine.model import PreparedModel, resolve_precision
from hcnn_fast.engine.selection import likeliest_labels
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
            return _search_blocks(_solver(classifier, images, config), images)


def _solver(
    model: Classifier,
    x: Tensor,  # [N, *image]
    config: SearchConfig,
) -> Solver:
    """The model prepared for these images, with a backend and a batch size."""
    backend = backends.resolve(config.backend, x.device.type)
    prepared = PreparedModel(model, resolve_precision(config.precision, x), x[:1])
    batch = config.batch_size
    if batch is None:
        batch = plan_batch_size(prepared.fast, x) if len(x) else 1
    return Solver(prepared, config, backend, batch)


def _search_blocks(
    solver: Solver,
    x: Tensor,  # [N, *image]
) -> SearchResult:
    """Go through the images in blocks whose candidates fit one pass, and join the results."""
    config = solver.config
    base = _base_logits(solver, x)  # [N, C]
    labels = likeliest_labels(base, config.labels)  # [N, L]
    if config.objective == "entropy":
        labels = labels[:, :1]
    runs = labels.shape[1] * config.starts  # candidates of an image
    blocks: list[Winners] = []

    def run(begin: int, end: int) -> None:
        blocks.append(solver.solve(x[begin:end], base[begin:end], labels[begin:end]))

    in_batches(len(x), max(1, solver.batch // runs), run)
    if not blocks:
        blocks.append(solver.solve(x, base, labels))
    logits = torch.cat([block.logits for block in blocks])
    label_logits = torch.cat([block.label_logits for block in blocks])  # [N, L, C]
    label_value = torch.cat([block.label_value for block in blocks])
    winner = torch.cat([block.winner for block in blocks])[:, None]  # [N, 1]
    points = [block.label_point for block in blocks if block.label_point is not None]
    value = label_value.gather(1, winner)[:, 0]
    prediction = torch.cat([block.prediction for block in blocks])
    label_prediction = label_logits.argmax(2)
    if config.objective == "entropy":
        labels, label = label_prediction, prediction.clone()
    else:
        label = labels.gather(1, winner)[:, 0].masked_fill(value == -math.inf, -1)
    steps = runs * config.steps * solver.phases  # gradient steps of an image
    return SearchResult(
        point=torch.cat([block.point for block in blocks]),
        value=value.float(),
        label=label,
        prediction=prediction,
        confidence=torch.softmax(logits, 1).amax(1).float(),
        logits=logits,
        labels=labels.clone(),
        label_value=label_value.float(),
        label_confidence=torch.softmax(label_logits, 2).amax(2).float(),
        label_prediction=label_prediction,
        label_point=torch.cat(points) if points else None,
        steps=torch.full_like(label, steps),
        forwards=len(x) * (1 + steps + runs * (solver.phases + 1)),
        backwards=len(x) * steps,
    )


def _base_logits(solver: Solver, x: Tensor) -> Tensor:
    """The model at the images [N, C]; an empty batch still learns C from one blank image."""
    images = x if len(x) else x.new_full((1, *x.shape[1:]), solver.config.bounds[0])
    parts: list[Tensor] = []
    with torch.no_grad():
        in_batches(
            len(images), solver.batch, lambda b, e: parts.append(solver.model.exact(images[b:e]))
        )
    return check_finite(torch.cat(parts))[: len(x)]
