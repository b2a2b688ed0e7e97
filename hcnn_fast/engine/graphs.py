"""Passes of small batches as CUDA graphs: a GPU that need not wait for the host's next launch."""

from __future__ import annotations

import inspect
import logging
import math
import os
import threading
from collections import Counter
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.cuda import make_graphed_callables

from hcnn_fast.engine.batch_sizes import filled, filled_size
from hcnn_fast.engine.memory import activation_bytes
from hcnn_fast.engine.slopes import Forward

ENVIRONMENT = "HCNN_FAST_CUDA_GRAPHS"
# Activations that captured passes hold. A large pass keeps the GPU busy while the host launches it.
LARGEST = 256 << 20  # bytes, of all sizes together
FEWEST = 8  # rows; smaller batches are filled up to so many
CAPTURED_IN_AN_OCTAVE = 2  # sizes
WARM_UP = 3  # passes, so that libraries choose their algorithms before the capture
WORTH = 8  # passes of one size after which the next ones are captured

# Other threads may go on allocating where torch lets a capture be of one thread.
_MODE: dict[str, Any] = (
    {"capture_error_mode": "thread_local"}
    if "capture_error_mode" in inspect.signature(make_graphed_callables).parameters
    else {}
)
_capturing = threading.Lock()
_log = logging.getLogger("hcnn_fast")


def can_capture(device: torch.device) -> bool:
    """Whether passes on this device are captured: on a GPU, where the environment asks for it.

    They have not been run on one yet; until then nobody gets them unasked.
    """
    return device.type == "cuda" and os.environ.get(ENVIRONMENT) == "1"


def bucket_of(rows: int) -> int:
    """The smallest batch of 8, 12, 16, 24, 32, 48, ... rows that holds so many."""
    return filled_size(max(rows, FEWEST), CAPTURED_IN_AN_OCTAVE)


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
        refused: why nothing is captured any more, or None.
    """

    def __init__(
        self,
        forward: Forward,
        image: Tensor,  # [1, *image]
    ) -> None:
        self.refused: str | None = None
        self._forward = forward
        self._image = image
        self._seen: Counter[int] = Counter()
        self._captured: dict[int, Forward] = {}
        self._stream: Any = None  # of the last replay

    def __call__(
        self,
        z: Tensor,  # [B, *image]
    ) -> Tensor:  # [B, C]
        """Logits at z, in memory of their own."""
        asked = z.requires_grad and torch.is_grad_enabled() and len(z) > 0
        captured = self._for(len(z)) if asked else None
        if captured is None:
            return self._forward(z)
        size, replay = captured
        self._wait_for_others()
        points: Tensor = _Own.apply(z)
        return filled(replay, points, size).clone()

    def _for(self, rows: int) -> tuple[int, Forward] | None:
        """The size that so many rows are filled up to, and its passes; None: not captured."""
        size = bucket_of(rows)
        if self.refused is not None:
            return None
        if size not in self._captured:
            if size + sum(self._captured) > self.most:
                return None
            self._seen[size] += 1
            if self._seen[size] <= WORTH:
                return None
            try:
                self._captured[size] = self._capture(size)
            except Exception as error:
                self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
                self._captured.clear()
                _log.info("passes are not captured as CUDA graphs: %s", self.refused)
                return None
        return size, self._captured[size]

    @cached_property
    def most(self) -> int:
        """Rows of all batches that are captured, at most."""
        return LARGEST // max(1, sum(activation_bytes(self._forward, self._image)))

    def _wait_for_others(self) -> None:
        """All replays use the same memory: one on another stream has to be over."""
        if self._image.device.type == "cuda":
            stream = torch.cuda.current_stream(self._image.device)
            if self._stream not in (None, stream):
                stream.wait_stream(self._stream)
            self._stream = stream

    def _capture(self, size: int) -> Forward:
        """Passes of so many rows; what the capture draws and where it runs is undone.

        Raises:
            Exception: whatever the capture fails with, or a replay that answers otherwise.
        """
        device = self._image.device
        if device.type != "cuda":
            return self._captured_and_checked(size)
        stream = torch.cuda.current_stream(device)
        try:
            with _capturing, torch.cuda.device(device), torch.random.fork_rng([device]):
                return self._captured_and_checked(size)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails may leave another one current

    def _captured_and_checked(self, size: int) -> Forward:
        points = self._image.repeat(size, *(1,) * (self._image.dim() - 1))
        sample = points.clone().requires_grad_()  # what every replay reads
        replay: Any = make_graphed_callables(
            self._forward, (sample,), num_warmup_iters=WARM_UP, **_MODE
        )
        generator = torch.Generator().manual_seed(0)
        scale = float(points.abs().amax().clamp_min(1.0))
        for _ in range(3):  # no two images of which are the same
            noise = torch.rand(points.shape, generator=generator).to(points)
            self._check(replay, points + scale * noise)
        forward: Forward = replay
        return forward

    def _check(self, replay: Forward, points: Tensor) -> None:
        """Compare a replay with the pass that it stands for: its logits and a gradient."""
        expected, found = (
            self._logits_and_gradient(passes, points) for passes in (self._forward, replay)
        )
        alike = math.sqrt(torch.finfo(found[0].dtype).eps)  # of the largest entry
        for one, other in zip(found, expected, strict=True):
            if not bool(((one - other).abs() <= alike * other.abs().max()).all()):
                raise RuntimeError("a replay gives other values than the model")

    @staticmethod
    def _logits_and_gradient(passes: Forward, points: Tensor) -> tuple[Tensor, Tensor]:
        leaf = points.clone().requires_grad_()
        logits = passes(leaf)
        seed = torch.linspace(-1.0, 1.0, logits.shape[1]).to(logits).expand_as(logits)
        (gradient,) = torch.autograd.grad(logits, leaf, seed)
        return logits.detach().clone(), gradient.clone()
