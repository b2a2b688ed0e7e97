"""CUDA graphs of work on small batches: a GPU that need not wait for the host's next launch."""

from __future__ import annotations

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

from hcnn_fast.backends import float32_products
from hcnn_fast.engine.batch_sizes import filled_size

ENVIRONMENT = "HCNN_FAST_CUDA_GRAPHS"
FEWEST = 8  # rows; smaller batches are filled up to so many
CAPTURED_IN_AN_OCTAVE = 2  # sizes
WARM_UP = 3  # passes, so that libraries choose their algorithms before the capture
WORTH = 8  # times that something is done without before it is captured
GRAPHS = 64  # of passes or of steps that are kept at most
IDLE = 1000  # requests for others after which a graph may make room for another

MODE = "thread_local"  # of a capture: other threads may go on allocating
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
    """What does the same work again on the same memory, launched as one.

    cuBLAS keeps a workspace for every stream. One that was made for another graph would go with
    that one, and one that the warm-up made with the stream: each graph gets its own.
    """
    current = torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            work()
    current.wait_stream(aside)
    torch._C._cuda_clearCublasWorkspaces()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside, capture_error_mode=MODE):
        work()
    return graph.replay


def noise_around(
    image: Tensor,  # [1, *image]
    rows: int,
) -> list[Tensor]:  # [rows, *image]
    """Points to compare a replay at with what it stands for; no two images are the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    scale = float(image.abs().amax().clamp_min(1.0))
    shape = (rows, *image.shape[1:])
    noise = (torch.rand(shape, generator=generator, device="cpu").to(image) for _ in range(3))
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

    Something is captured when it has come up often, as long as there is room; what nobody has asked
    for in a while makes some. After a capture that fails, or whose replay answers otherwise, there
    are none any more. Switches of the process that products depend on tell captures apart as well.

    Args:
        device: what the captured work runs on.
        what: names it in the log.

    Attributes:
        refused: why nothing is captured any more, or None.
        kept: what is captured.
    """

    def __init__(self, device: torch.device, what: str) -> None:
        self.refused: str | None = None
        self.kept: dict[Hashable, Captured] = {}
        self._rows: dict[Hashable, int] = {}  # of what is kept
        self._last: dict[Hashable, int] = {}  # request for it
        self._requests = 0
        self._device, self._what = device, what
        self._seen: Counter[Hashable] = Counter()
        self._stream: Any = None  # of the last replay

    def get(
        self,
        key: Hashable,
        rows: int,
        most: int,
        capture: Callable[[], Captured],
        uses: int = 1,
    ) -> Captured | None:
        """What is captured under a key, maybe by now.

        Args:
            key: tells it apart.
            rows: of its batch.
            most: rows of all batches together that there is room for.
            capture: captures and checks it; what that draws and where it runs is undone.
            uses: how often it will be replayed before somebody asks again.
        """
        if self.refused is not None or rows > most:
            return None
        key = (key, _switches())
        self._requests += 1
        if key not in self.kept:
            if self._seen[key] < WORTH:
                self._seen[key] += uses
                return None
            if not self._has_room(rows, most):
                return None
            try:
                with _one_capture(self._device):
                    self.kept[key] = capture()
            except Exception as error:
                self.refused = f"{type(error).__name__}: {error}".splitlines()[0]
                self.kept.clear()
                _log.info("%s are not captured as CUDA graphs: %s", self._what, self.refused)
                return None
            self._rows[key] = rows
        self._last[key] = self._requests
        self._wait_for_others()
        return self.kept[key]

    def _has_room(self, rows: int, most: int) -> bool:
        """Whether one more can be kept, without those that nobody has asked for in a while."""

        def is_full() -> bool:
            return len(self.kept) >= GRAPHS or rows + sum(self._rows.values()) > most

        if is_full():
            for key in [k for k in self.kept if self._last[k] < self._requests - IDLE]:
                del self.kept[key], self._rows[key], self._last[key], self._seen[key]
        return not is_full()

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
    with _capturing, torch.cuda.device(device), torch.random.fork_rng([device]):
        stream = torch.cuda.current_stream(device)
        torch._C._cuda_clearCublasWorkspaces()
        try:
            yield
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails may leave another one current
            torch._C._cuda_clearCublasWorkspaces()


def _switches() -> tuple[object, ...]:
    """What the process has set that a graph would hold for ever."""
    products = float32_products()
    return (*products.values(), torch.are_deterministic_algorithms_enabled())
