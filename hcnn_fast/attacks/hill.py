"""What runs climb where the engine has no such objective: a loss, its heights and slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.attacks.losses import Loss, as_margin
from hcnn_fast.attacks.runs import Problem, Runs
from hcnn_fast.engine.slopes import Slope, objective, slope


class Hill:
    """The rise of a loss, by the model in the precision of the attack.

    Args:
        problem: the model and the backend.
        runs: B runs, whose labels and targets the loss is of.
        loss: what rises.
    """

    def __init__(self, problem: Problem, runs: Runs, loss: Loss) -> None:
        self._runs, self._loss, self._backend = runs, loss, problem.backend
        self._kind, self._sign = "margin", 1.0
        self._first = torch.zeros_like(runs.label)  # [B]
        if loss.odds is None:
            self._forward = as_margin(problem.model.fast, loss, runs.label, runs.target)
        else:
            self._forward, self._kind, self._sign = problem.model.fast, "log_odds", loss.odds[1]

    def slope(
        self,
        point: Tensor,  # [B, *image]
    ) -> Slope:
        """Height of each run's point, and its gradient.

        Raises:
            ValueError: the logits do not depend on the point by differentiable operations.
        """
        return slope(self._forward, point, self._class, self._kind, 1.0, self._backend, self._sign)

    def height(
        self,
        point: Tensor,  # [B, *image]
    ) -> Tensor:  # [B] as the slope's value
        """Height of each run's point, for one forward pass."""
        with torch.no_grad():
            logits = self._forward(point)
        found = objective(logits, self._class(logits), self._kind, 1.0, self._backend)
        return self._sign * found[0]

    def _class(
        self,
        logits: Tensor,  # [B, C] without a graph
    ) -> Tensor:  # [B]
        """The class whose odds are climbed; of a margin's two classes the first."""
        if self._loss.odds is None:
            return self._first
        return self._loss.odds[0](logits, self._runs.label, self._runs.target)
