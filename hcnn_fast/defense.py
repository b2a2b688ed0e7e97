"""A defended classifier: the search as an nn.Module that predicts or rejects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import Classifier, as_logits, check_images, check_labels
from hcnn_fast.engine.model import frozen_copy
from hcnn_fast.search import SearchResult, search


@dataclass(frozen=True)
class Prediction:
    """What a defended classifier answers for N images.

    Attributes:
        label: [N] int64, the predicted class at the point found; -1 where rejected.
        confidence: [N] float32, its probability there.
        accepted: [N] bool.
        search: the search behind it.
    """

    label: Tensor
    confidence: Tensor
    accepted: Tensor
    search: SearchResult


def _check_share(name: str, value: object, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}), expected {expected}")
    if not 0.0 <= value <= 1.0:  # NaN fails too
        raise ValueError(f"{name} is {value!r}, expected {expected}")


class _At(torch.autograd.Function):
    """The value of `point`, with the gradient of the image: identity through the search."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, point: Tensor) -> Tensor:
        return point.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0], None


class Defense(nn.Module):
    """A classifier that answers at the point that the search finds: Gamma(x) = F(H(x)).

    The search is part of the forward pass (a dynamic, test-time defence): an evaluation must attack
    it as a whole. For that the output is differentiable in x by Danskin's theorem: the gradient of
    max_z F_l(z) is the gradient of F_l at the maximiser, so the search passes gradients unchanged.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is, evaluated in eval mode.
        config: the search.
        threshold: smallest confidence that is accepted; None accepts all but infeasible NCN.

    Raises:
        TypeError, ValueError: `config` or `threshold` is not usable.
    """

    is_dynamic = True

    def __init__(
        self, model: Classifier, config: SearchConfig, threshold: float | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, SearchConfig):
            raise TypeError(f"config is a {type(config).__name__}, expected a SearchConfig")
        if threshold is not None:
            _check_share("threshold", threshold, "None or a number in [0, 1]")
        self.model = model
        self.config = config
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:  # [N, *image] -> [N, C]
        """Logits at the point found; with gradients in x where they are asked for."""
        result = search(self.model, x, self.config)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return result.logits
        point = _At.apply(x, result.point)
        model = frozen_copy(self.model) if isinstance(self.model, nn.Module) else self.model
        return as_logits(model(point), len(x))

    def predict(self, x: Tensor) -> Prediction:  # x: [N, *image]
        """Labels, or -1 where the confidence at the point found is below the threshold."""
        result = search(self.model, x, self.config)
        accepted = torch.ones_like(result.label, dtype=torch.bool)
        if self.config.objective == "ncn":
            accepted &= result.label >= 0
        if self.threshold is not None:
            accepted &= result.confidence >= self.threshold
        return Prediction(
            label=result.prediction.masked_fill(~accepted, -1),
            confidence=result.confidence,
            accepted=accepted,
            search=result,
        )

    def calibrate(self, x: Tensor, y: Tensor, tpr: float = 0.99) -> float:
        """Set the threshold that keeps a share `tpr` of correctly classified clean images.

        The rule of CCAT (Stutz et al. 2020; spec B.5): of the n confidences of the correct answers,
        sorted, the threshold is entry floor(n * (1 - tpr)), so at least the share `tpr` stays.

        Args:
            x: [N, *image] held-out images, not those that are evaluated.
            y: [N] their classes.
            tpr: share of the correct answers to keep, in (0, 1].

        Raises:
            TypeError, ValueError: an argument is not usable, such as tpr outside (0, 1], or no
                image is classified correctly.
        """
        _check_share("tpr", tpr, "a number in (0, 1]")
        if tpr == 0.0:
            raise ValueError(f"tpr is {tpr!r}, expected a number in (0, 1]")
        check_labels(y, check_images(x, self.config))
        result = search(self.model, x, self.config)
        correct = result.prediction == check_labels(y, x, result.logits.shape[1])
        if self.config.objective == "ncn":
            correct &= result.label >= 0
        kept = result.confidence[correct].sort().values
        if not len(kept):
            raise ValueError("x has no correctly classified image to calibrate on")
        dropped = math.floor(len(kept) * (1.0 - tpr) + 1e-9)
        self.threshold = float(kept[min(dropped, len(kept) - 1)])
        return self.threshold
