"""One run of a search or of a rival, watched: its time in the model, its memory, its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hcnn_fast.config import SearchConfig
from hcnn_fast.measurement.clock import ClockedModel, ModelClock
from hcnn_fast.measurement.peak_memory import PeakMemory
from hcnn_fast.measurement.rivals import Rival
from hcnn_fast.search import search


@dataclass(frozen=True)
class Outcome:
    """What a run gave, and the passes of single images that it made through the model.

    Attributes:
        confidence: [N] largest confidence found around each image.
        forwards, backwards: image passes that the method needs.
    """

    confidence: Tensor  # [N]
    forwards: int
    backwards: int


Run = Callable[[nn.Module, Tensor], Outcome]


def searching(config: SearchConfig) -> Run:
    """`hcnn_fast.search` with this problem."""

    def run(model: nn.Module, x: Tensor) -> Outcome:
        result = search(model, x, config)
        return Outcome(result.confidence, result.forwards, result.backwards)

    return run


def looping(rival: Rival, radius: float, steps: int, step_size: float) -> Run:
    """A rival with these settings; it tries every label."""

    def run(model: nn.Module, x: Tensor) -> Outcome:
        reached = rival(model, x, radius, steps, step_size)  # [N, C]
        runs = reached.numel()
        return Outcome(reached.amax(1), runs * (steps + 1), runs * steps)

    return run


@dataclass(frozen=True)
class Observation:
    """A watched run.

    Attributes:
        outcome: what it gave.
        seconds: time of this run, which carries the clock.
        model_seconds: time inside the model's forward and backward passes; None where unknown.
        unknown: why it is unknown, or "".
        batch: most images that passed the model together; N where no clock counted.
        peak_memory: bytes.
        memory_kind: what they count, see `PeakMemory`.
    """

    outcome: Outcome
    seconds: float
    model_seconds: float | None
    unknown: str
    batch: int
    peak_memory: int
    memory_kind: str

    @property
    def outside_share(self) -> float | None:
        """Share of the time that passes outside the model; None where unknown."""
        if self.model_seconds is None:
            return None
        return 1.0 - self.model_seconds / self.seconds


def observe(
    run: Run,
    model: nn.Module,
    x: Tensor,  # [N, *image]
    *,
    unclocked: str = "",
) -> Observation:
    """Run with a clock around the model, on one image to warm up, then on all.

    The clock reads the time before and after each forward pass, and by hooks when the gradients of
    logits and images are known; the model itself is not changed. The share of time outside the
    model is one of this run's time. A pass that the clock does not see (the engine replaced the
    module, or replays a captured graph) makes the share unknown instead of wrong.

    Args:
        run: what to watch.
        model: in eval mode.
        x: the images.
        unclocked: a reason not to put the clock in; the share is then unknown for this reason.
    """
    clock = ModelClock(x.device)
    watched = model if unclocked else ClockedModel(model, clock).eval()
    if not unclocked:
        run(watched, x[:1])  # a search prepares a model that it has not seen
        clock.reset()
    with PeakMemory(x.device) as memory:
        wait_for(x.device)
        began = time.perf_counter()
        outcome = run(watched, x)
        wait_for(x.device)
        seconds = time.perf_counter() - began
    unknown = unclocked
    if not unknown and (clock.forwards < outcome.forwards or clock.backwards < outcome.backwards):
        unknown = (
            f"the clock saw {clock.forwards} of {outcome.forwards} forward and {clock.backwards}"
            f" of {outcome.backwards} backward passes"
        )
    return Observation(
        outcome=outcome,
        seconds=seconds,
        model_seconds=None if unknown else clock.seconds(),
        unknown=unknown,
        batch=clock.largest_batch or len(x),
        peak_memory=memory.bytes,
        memory_kind=memory.kind,
    )


def time_rounds(job: Callable[[], object], device: torch.device, *, rounds: int) -> list[float]:
    """Seconds of each of some repetitions; each ends when the device is done."""
    seconds = []
    for _ in range(rounds):
        wait_for(device)
        began = time.perf_counter()
        job()
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
