"""Objectives of a classifier and their gradients in its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import ops

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Slope:
    """An objective at B points.

    Attributes:
        value: [B].
        gradient: [B, *image] of the value in the point.
        logits: [B, C] the model there, detached.
    """

    value: Tensor
    gradient: Tensor
    logits: Tensor

    def rows(self, which: slice | Tensor) -> Slope:  # or [b] int64
        """The slope at some of the points."""
        return Slope(self.value[which], self.gradient[which], self.logits[which])

    @staticmethod
    def cat(parts: Sequence[Slope]) -> Slope:
        """The slopes of several batches, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Slope(
            torch.cat([part.value for part in parts]),
            torch.cat([part.gradient for part in parts]),
            torch.cat([part.logits for part in parts]),
        )


def slope(
    forward: Forward,
    point: Tensor,  # [B, *image]
    label: Tensor | Callable[[Tensor], Tensor],  # [B], or from logits [B, C]
    kind: str,
    order: float,
    backend: str,
    sign: float = 1.0,
) -> Slope:
    """Objective at each point and its gradient in the input: no weight gradient is computed.

    Args:
        forward: gives logits [B, C].
        point: where.
        label: classes, or how they follow from the logits.
        kind: name of the objective.
        order: of an entropy.
        backend: implementation of the objective.
        sign: 1, or -1 for the negative of the objective.

    Raises:
        ValueError: the logits do not depend on the point by differentiable operations.
    """
    leaf, logits = _differentiable(forward, point)
    labels = label if isinstance(label, Tensor) else label(logits.detach())
    value, seed = objective(logits, labels, kind, order, backend)
    if sign != 1.0:
        value, seed = sign * value, sign * seed
    (gradient,) = torch.autograd.grad(logits, leaf, seed)
    return Slope(value, match_layout(gradient, point), logits.detach())


def slopes_of_labels(
    forward: Forward,
    image: Tensor,  # [n, *image]
    choose: Callable[[Tensor], Tensor],  # logits [n, C] to labels [n, L]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Slope]:  # [n, L], B = n * L by image, then label
    """The objective of several labels at each image: one forward pass serves all of them.

    Raises:
        ValueError: as `slope`.
    """
    leaf, logits = _differentiable(forward, image)
    labels = choose(logits.detach())
    images, tried = labels.shape
    value = logits.new_empty((images, tried), dtype=objective_dtype(logits), requires_grad=False)
    gradient = image.new_empty((images, tried, *image.shape[1:]))
    for j in range(tried):
        value[:, j], seed = objective(logits, labels[:, j], kind, order, backend)
        (gradient[:, j],) = torch.autograd.grad(logits, leaf, seed, retain_graph=j + 1 < tried)
    spread = logits.detach().repeat_interleave(tried, 0)
    return labels, Slope(value.flatten(), gradient.flatten(0, 1), spread)


def _differentiable(forward: Forward, point: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf with the values of `point`, and the logits [B, C] that depend on it."""
    leaf = point.detach().requires_grad_()
    logits = forward(leaf)
    if not logits.requires_grad:
        raise ValueError(
            "model returned logits without a gradient in x, expected differentiable operations "
            "(no torch.no_grad, detach or constant output)"
        )
    return leaf, logits


def objective_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of an objective of these logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def objective(
    logits: Tensor,  # [B, C]
    label: Tensor,  # [B]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, C]
    """Objective of each row of logits and its gradient in them."""
    z = logits.detach().contiguous()
    value = torch.empty(len(z), dtype=objective_dtype(z), device=z.device)
    gradient = torch.empty_like(z)
    ops.label_objective(
        z, label.contiguous(), kind, order=order, value=value, gradient=gradient, backend=backend
    )
    return value, gradient


def match_layout(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the strides of `like`: itself where it has them, else a copy."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_strided(
        like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)
