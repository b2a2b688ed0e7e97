"""Forward and backward passes of small batches as CUDA graphs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.cuda import make_graphed_callables

from hcnn_fast.engine.batch_sizes import filled
from hcnn_fast.engine.captured_steps import CapturedSteps
from hcnn_fast.engine.graphs import (
    MODE,
    WARM_UP,
    Captures,
    bucket_of,
    check_alike,
    noise_around,
)
from hcnn_fast.engine.memory import activation_bytes
from hcnn_fast.engine.slopes import Forward

# Activations that the captured passes of a model in one precision hold, and captured steps as much.
# A large pass keeps the GPU busy while the host launches it.
LARGEST = 256 << 20  # bytes, of all sizes together
POINTS_OF_A_ROW = 6  # point, best, centre, gradient, momentum buffer, the point before


class _Own(torch.autograd.Function):
    """The same points; their gradient is copied out of memory that the next pass overwrites."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        return points.view_as(points)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()


class CapturedPasses:
    """Forward and backward passes that are captured once for each of a few batch sizes.

    A batch is filled up to the next size of `bucket_of`, so that runs that end leave no batch that
    has to be captured again; a size is captured when it has come up often. Passes without a
    gradient, large ones, and all passes of a model that cannot be captured or answers otherwise
    when it is replayed, are made as ever.

    A forward pass serves one backward pass: that one frees what it has read.

    Args:
        forward: gives logits [B, C]; each row of them depends on its own image alone.
        image: an image of the kind that will pass, on the device.

    Attributes:
        steps: whole steps of an ascent with these passes in them.
        captures: the passes.
    """

    def __init__(
        self,
        forward: Forward,
        image: Tensor,  # [1, *image]
    ) -> None:
        self._forward = forward
        self._image = image
        self.captures: Captures[Forward] = Captures(image.device, "passes")

    def __call__(
        self,
        z: Tensor,  # [B, *image]
    ) -> Tensor:  # [B, C]
        """Logits at z, in memory of their own."""
        asked = z.requires_grad and torch.is_grad_enabled() and len(z) > 0
        if not asked:
            return self._forward(z)
        size = bucket_of(len(z))
        replay = self.captures.get(size, size, self.most, lambda: self._capture(size))
        if replay is None:
            return self._forward(z)
        points: Tensor = _Own.apply(z)
        return filled(replay, points, size).clone()

    @cached_property
    def most(self) -> int:
        """Rows of all batches that are captured, at most."""
        point = self._image.numel() * self._image.element_size()
        kept = sum(activation_bytes(self._forward, self._image)) + POINTS_OF_A_ROW * point
        return LARGEST // max(1, kept)

    @cached_property
    def steps(self) -> CapturedSteps:
        """Whole steps of an ascent with these passes in them."""
        return CapturedSteps(self._forward, self._image, self.most)

    def _capture(self, size: int) -> Forward:
        """Passes of so many rows.

        Raises:
            Exception: whatever the capture fails with, or a replay that answers otherwise.
        """
        points = self._image.repeat(size, *(1,) * (self._image.dim() - 1))
        sample = points.requires_grad_()  # what every replay reads
        replay: Any = make_graphed_callables(
            self._forward, (sample,), num_warmup_iters=WARM_UP, capture_error_mode=MODE
        )
        for points in noise_around(self._image, size):
            expected, found = (
                self._logits_and_gradient(passes, points) for passes in (self._forward, replay)
            )
            for one, other in zip(found, expected, strict=True):
                check_alike(one, other)
        forward: Forward = replay
        return forward

    @staticmethod
    def _logits_and_gradient(passes: Forward, points: Tensor) -> tuple[Tensor, Tensor]:
        leaf = points.clone().requires_grad_()
        logits = passes(leaf)
        seed = torch.linspace(-1.0, 1.0, logits.shape[1]).to(logits).expand_as(logits)
        (gradient,) = torch.autograd.grad(logits, leaf, seed)
        return logits.detach().clone(), gradient.clone()
