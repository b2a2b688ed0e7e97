"""What runs climb where the engine has no such objective: a loss, its heights and slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.attacks.losses import Loss, as_margin
from hcnn_fast.attacks.runs import Problem, Runs
from hcnn_fast.engine.slopes import Slope, slope


class Hill:
    """The rise of a loss, by the model in the precision of the attack.

    Args:
        problem: the model and the backend.
        runs: B runs, whose labels and targets the loss is of.
        loss: what rises.
    """

    def __init__(self, problem: Problem, runs: Runs, loss: Loss) -> None:
        self._forward = as_margin(problem.model.fast, loss, runs.label, runs.target)
        self._first = torch.zeros_like(runs.label)  # [B] class 0 of that model is what is climbed
        self._backend = problem.backend

    def slope(
        self,
        point: Tensor,  # [B, *image]
    ) -> Slope:
        """Height of each run's point, and its gradient.

        Raises:
            ValueError: the logits do not depend on the point by differentiable operations.
        """
        return slope(self._forward, point, self._first, "margin", 1.0, self._backend)

    def height(
        self,
        point: Tensor,  # [B, *image]
    ) -> Tensor:  # [B] as the slope's value
        """Height of each run's point, for one forward pass."""
        with torch.no_grad():
            return self._forward(point)[:, 0]
