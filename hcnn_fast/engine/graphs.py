"""CUDA graphs of work on small batches: a GPU that need not wait for the host's next launch."""

from __future__ import annotations

import inspect
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.cuda import make_graphed_callables

from hcnn_fast.engine.batch_sizes import filled_size

ENVIRONMENT = "HCNN_FAST_CUDA_GRAPHS"
FEWEST = 8  # rows; smaller batches are filled up to so many
CAPTURED_IN_AN_OCTAVE = 2  # sizes
WARM_UP = 3  # passes, so that libraries choose their algorithms before the capture
WORTH = 8  # times that something is done before it is captured

# Other threads may go on allocating where torch lets a capture be of one thread.
MODE: dict[str, Any] = (
    {"capture_error_mode": "thread_local"}
    if "capture_error_mode" in inspect.signature(make_graphed_callables).parameters
    else {}
)
_capturing = threading.Lock()
_log = logging.getLogger("hcnn_fast")

Captured = TypeVar("Captured")


def can_capture(device: torch.device) -> bool:
    """Whether work on this device is captured: on a GPU, where the environment asks for it.

    It has not been run on one yet; until then nobody gets it unasked.
    """
    return device.type == "cuda" and os.environ.get(ENVIRONMENT) == "1"


def bucket_of(rows: int) -> int:
    """The smallest batch of 8, 12, 16, 24, 32, 48, ... rows that holds so many."""
    return filled_size(max(rows, FEWEST), CAPTURED_IN_AN_OCTAVE)


def graph_of(work: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """What does the same work again on the same memory, launched as one."""
    current = torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            work()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, **MODE):
        work()
    return graph.replay


def noise_around(
    image: Tensor,  # [1, *image]
    rows: int,
) -> list[Tensor]:  # [rows, *image]
    """Points to compare a replay at with what it stands for; no two images are the same."""
    generator = torch.Generator().manual_seed(0)
    scale = float(image.abs().amax().clamp_min(1.0))
    shape = (rows, *image.shape[1:])
    noise = (torch.rand(shape, generator=generator).to(image) for _ in range(3))
    return [image + scale * each for each in noise]


def check_alike(found: Tensor, expected: Tensor) -> None:
    """Compare what a replay gave with what it stands for.

    Raises:
        RuntimeError: they differ by more than another algorithm's rounding.
    """
    alike = math.sqrt(torch.finfo(found.dtype).eps)  # of the largest entry
    if not bool(((found - expected).abs() <= alike * expected.abs().max()).all()):
        raise RuntimeError("a replay gives other values than the model")


class Captures(Generic[Captured]):
    """What has been captured so far, by what tells it apart.

    Something is captured when it has come up often, as long as there is room. After a capture that
    fails, or whose replay answers otherwise, there are none any more.

    Args:
        device: what the captured work runs on.
        what: names it in the log.

    Attributes:
        refused: why nothing is captured any more, or None.
        kept: what is captured, with its rows.
    """

    def __init__(self, device: torch.device, what: str) -> None:
        self.refused: str | None = None
        self.kept: dict[Hashable, tuple[int, Captured]] = {}
        self._device, self._what = device, what
        self._seen: Counter[Hashable] = Counter()
        self._stream: Any = None  # of the last replay

    def get(
        self, key: Hashable, rows: int, most: int, capture: Callable[[], Captured]
    ) -> Captured | None:
        """What is captured under a key, maybe by now.

        Args:
            key: tells it apart.
            rows: of its batch.
            most: rows of all batches together that there is room for.
            capture: captures and checks it; what that draws and where it runs is undone.
        """
        if self.refused is not None:
            return None
        if key not in self.kept:
            if rows + sum(size for size, _ in self.kept.values()) > most:
                return None
            self._seen[key] += 1
            if self._seen[key] <= WORTH:
                return None
            try:
                with _one_capture(self._device):
                    self.kept[key] = rows, capture()
            except Exception as error:
                self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
                self.kept.clear()
                _log.info("%s are not captured as CUDA graphs: %s", self._what, self.refused)
                return None
        self._wait_for_others()
        return self.kept[key][1]

    def _wait_for_others(self) -> None:
        """All replays use the same memory: one on another stream has to be over."""
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            if self._stream not in (None, stream):
                stream.wait_stream(self._stream)
            self._stream = stream


@contextmanager
def _one_capture(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.current_stream(device)
    try:
        with _capturing, torch.cuda.device(device), torch.random.fork_rng([device]):
            yield
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails may leave another one current
