"""How much of a run's time passes inside the model: its forward and its backward."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.engine.inputs import Classifier, as_logits


class ModelClock:
    """Adds up the time that passes inside a model, and the images that pass through it.

    On the CPU time is read from `time.perf_counter`. On CUDA events are recorded on the stream and
    read by `seconds`; passes that are captured into a CUDA graph are not seen.

    Attributes:
        largest_batch: most images that passed together.
        forwards, backwards: passes of single images.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelClock:
        """Itself: a search runs copies of a model, and all of them report to one clock."""
        return self

    def reset(self) -> None:
        """Forget everything."""
        self._spans.clear()
        self.largest_batch = self.forwards = self.backwards = 0

    def seconds(self) -> float:
        """Time inside the model so far; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
            return float(sum(begin.elapsed_time(end) for begin, end in self._spans)) / 1e3
        return float(sum(end - begin for begin, end in self._spans))

    def run(self, model: Classifier, z: Tensor) -> Tensor:  # z [B, *image] -> [B, C]
        """Logits of a model, timed; where z asks for a gradient, its backward pass as well."""
        if self._cuda and torch.cuda.is_current_stream_capturing():
            return as_logits(model(z), len(z))
        begin = self._now()
        logits = as_logits(model(z), len(z))
        self._spans.append((begin, self._now()))
        self.largest_batch = max(self.largest_batch, len(z))
        self.forwards += len(z)
        if logits.requires_grad and z.requires_grad:
            self._time_backward(z, logits)
        return logits

    def _time_backward(self, z: Tensor, logits: Tensor) -> None:
        """From the moment that the logits' gradient is known to the moment that z's is."""
        begin: list[Any] = []

        def enter(gradient: Tensor) -> None:
            begin.append(self._now())

        def leave(gradient: Tensor) -> None:
            if begin:
                self._spans.append((begin.pop(), self._now()))
                self.backwards += len(gradient)

        logits.register_hook(enter)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        z.register_hook(leave)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        # torch leaves it untyped
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class ClockedModel(nn.Module):
    """A classifier whose forward and backward passes a clock times; otherwise the same.

    Args:
        model: nn.Module or callable giving logits [N, C].
        clock: what adds up the time.
    """

    def __init__(self, model: Classifier, clock: ModelClock) -> None:
        super().__init__()
        self.model = model
        # A method, whose object is not looked into: the clock changes as it runs, the model does
        # not, and a search goes on using its copy.
        self._timed = clock.run
        self.train(model.training if isinstance(model, nn.Module) else False)

    def forward(
        self,
        z: Tensor,  # [B, *image]
    ) -> Tensor:  # [B, C]
        """Logits of the model."""
        return self._timed(self.model, z)
