"""OracleHCNN as the paper states it: for each image, for each label, a constrained ascent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.reference import operations
from hcnn_fast.reference.nearest import approach

if TYPE_CHECKING:
    from hcnn_fast.search import SearchResult

Classifier = nn.Module | Callable[[Tensor], Any]


@dataclass(frozen=True)
class _Run:
    """The end of one label's run: its point, the model there, and its objective."""

    point: Tensor  # [*image]
    logits: Tensor  # [C]
    value: float
    certainty: float  # log F_l, which ranks runs whose values are equal once rounded


def search(model: Classifier, x: Tensor, config: SearchConfig) -> SearchResult:
    """The specification of `hcnn_fast.search`: same arguments, same fields, loops for everything.

    The model is called as it is, one image at a time; put it into evaluation mode first. `backend`,
    `precision`, `batch_size` and `tolerance` have no meaning here.
    """
    from hcnn_fast.search import SearchResult

    low, high = config.bounds
    images = x.detach().clamp(low, high) if len(x) else x.new_full((1, *x.shape[1:]), low)
    rows = [_search_image(model, image, config) for image in images]
    columns = {name: torch.stack([row[name] for row in rows])[: len(x)] for name in rows[0]}
    tried = columns["labels"].shape[1]
    phases = 2 if config.objective == "ncn" or config.distance_weight > 0 else 1
    steps = tried * config.starts * config.steps * phases
    return SearchResult(
        **{k: v for k, v in columns.items() if k != "label_point"},
        label_point=columns["label_point"] if config.keep_points else None,
        steps=torch.full((len(x),), steps, device=x.device),
        forwards=len(x) * (1 + steps + tried * config.starts * (phases + 1)),
        backwards=len(x) * steps,
    )


def _search_image(model: Classifier, x: Tensor, config: SearchConfig) -> dict[str, Tensor]:
    """All labels of one image x [*image]; each entry is that field of the result for one row."""
    base = _logits(model, x)  # [C]
    entropy = config.objective == "entropy"
    if entropy:
        labels = [0]
    else:
        ranked = base.argsort(dim=0, descending=True, stable=True).tolist()
        labels = sorted(ranked[: config.labels])
    runs = []
    for label in labels:
        of_label = [_run(model, x, base, label, start, config) for start in range(config.starts)]
        runs.append(_best(of_label))
    winner = _best(runs)
    prediction = winner.logits.argmax()
    label_logits = torch.stack([run.logits for run in runs])  # [L, C]
    label_prediction = label_logits.argmax(1)
    tried = label_prediction if entropy else torch.tensor(labels, device=x.device)
    position = next(i for i, run in enumerate(runs) if run is winner)
    found = torch.tensor(-1, device=x.device) if winner.value == -math.inf else tried[position]
    return {
        "point": winner.point,
        "value": torch.tensor(winner.value, dtype=torch.float32, device=x.device),
        "label": prediction if entropy else found,
        "prediction": prediction,
        "confidence": torch.softmax(winner.logits, 0).amax().float(),
        "logits": winner.logits,
        "labels": tried,
        "label_value": torch.tensor(
            [run.value for run in runs], dtype=torch.float32, device=x.device
        ),
        "label_confidence": torch.softmax(label_logits, 1).amax(1).float(),
        "label_prediction": label_prediction,
        "label_point": torch.stack([run.point for run in runs]),
    }


def _best(runs: list[_Run]) -> _Run:
    """The run of largest value, of equals the most certain, then the first."""
    return max(runs, key=lambda run: (run.value, run.certainty))


def _run(
    model: Classifier, x: Tensor, base: Tensor, label: int, start: int, config: SearchConfig
) -> _Run:
    """O(x, F, l): climb for one label from one start; never worse than the image itself."""
    z = _first_point(x, label, start, config)
    if config.objective == "entropy":
        z = _climb(model, x, z, label, "negative_entropy", config, weighed=False)
    else:
        z = _climb(model, x, z, label, "log_probability", config, weighed=False)
    if config.objective == "ncn":
        z = approach(lambda p: _slope(model, p, label, "log_odds", 1.0), x, z, config)
    elif config.distance_weight > 0:
        z = _climb(model, x, z, label, "probability", config, weighed=True)
    best = _judge(z, _logits(model, z), x, label, config)
    own = _judge(x, base, x, label, config)
    return own if own.value > best.value else best


def _first_point(x: Tensor, label: int, start: int, config: SearchConfig) -> Tensor:
    """The image for start 0, else a point drawn from ball and bounds."""
    image = x[None]
    content = torch.empty(1, dtype=torch.int64)
    operations.content_hash(image, out=content)
    z = torch.empty_like(image)
    operations.random_starts(
        image,
        content,
        torch.tensor([0]),
        torch.tensor([label]),
        torch.tensor([start]),
        seed=config.seed,
        radius=config.radius,
        bounds=config.bounds,
        point=z,
    )
    return z[0]


def _climb(
    model: Classifier,
    x: Tensor,
    z: Tensor,
    label: int,
    kind: str,
    config: SearchConfig,
    *,
    weighed: bool,
) -> Tensor:
    """T gradient steps; the best of the T + 1 points by value - distance_weight * |z - x|.

    Only HCNN's second run (`weighed`) counts the distance, in the score and in the moves.
    """
    order = 1.0 if config.order is None else config.order
    weight = config.distance_weight if weighed else 0.0
    point = z[None].clone()
    best = point.clone()
    best_value = point.new_full((1,), -math.inf)
    buffer = torch.zeros_like(point) if config.momentum > 0 else None
    away = operations.norm_of(point - x, config.distance_norm)
    gathered = 0.0
    for size in (*config.step_sizes(second_run=weighed), None):
        value, gradient = _slope(model, point[0], label, kind, order)
        if size is None:
            score = value - weight * away
            return point[0] if bool(score > best_value) else best[0]
        gathered = config.momentum * gathered + 1.0
        operations.pgd_step_(
            point,
            gradient[None],
            x[None],
            torch.zeros(1, dtype=torch.int64, device=x.device),
            point.new_full((1,), size),
            radius=config.radius,
            bounds=config.bounds,
            momentum_buffer=buffer,
            momentum=config.momentum,
            penalty=point.new_full((1,), weight * gathered) if weighed else None,
            norm=config.distance_norm,
            value=value[None],
            distance_weight=weight,
            best=best,
            best_value=best_value,
            distance=away,
        )
    raise AssertionError("the last point returns")


def _judge(z: Tensor, logits: Tensor, x: Tensor, label: int, config: SearchConfig) -> _Run:
    """The objective of the problem at z, in the precision of the image."""
    away = float(operations.norm_of((z - x)[None], config.distance_norm)[0])
    order = 1.0 if config.order is None else config.order
    certainty = _objective(logits[None], label, "log_probability", 1.0)[0]
    if config.objective == "entropy":
        value = _objective(logits[None], label, "negative_entropy", order)[0]
    elif config.confidence is not None:
        threshold = math.log(config.confidence) - math.log1p(-config.confidence)
        odds = _objective(logits[None], label, "log_odds", 1.0)[0]
        value = odds.new_tensor(-away if float(odds) >= threshold else -math.inf)
    else:
        value = _objective(logits[None], label, "probability", 1.0)[0]
        value = value - config.distance_weight * away
    return _Run(point=z, logits=logits, value=float(value), certainty=float(certainty))


def _slope(
    model: Classifier, z: Tensor, label: int, kind: str, order: float
) -> tuple[Tensor, Tensor]:  # [], [*image]
    """An objective at one point and its gradient, by plain automatic differentiation."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.detach().clone()[None].requires_grad_()
        logits = _output(model, leaf)
        value, seed = _objective(logits.detach(), label, kind, order)
        (gradient,) = torch.autograd.grad(logits, leaf, seed)
    return value, gradient[0]


def _objective(
    logits: Tensor,  # [1, C]
    label: int,
    kind: str,
    order: float,
) -> tuple[Tensor, Tensor]:  # [], [1, C]
    value, gradient = logits.new_empty(1), torch.empty_like(logits)
    target = torch.tensor([label], device=logits.device)
    operations.label_objective(logits, target, kind, order=order, value=value, gradient=gradient)
    return value[0], gradient


def _logits(model: Classifier, z: Tensor) -> Tensor:  # [*image] -> [C]
    with torch.no_grad():
        return _output(model, z[None])[0]


def _output(model: Classifier, z: Tensor) -> Tensor:
    output = model(z)
    output = output[0] if isinstance(output, (tuple, list)) else output
    logits: Tensor = getattr(output, "logits", output)
    return logits
