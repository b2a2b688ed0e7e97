"""What the benchmarks of the operations run on, and how a call is timed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hcnn_fast import backends

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = [
    name
    for name in (("cuda", "triton") if DEVICE == "cuda" else ("cpu",))
    if backends.reasons()[name] is None
]


def timed(benchmark: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """Time calls one by one, each until the device is done, after two that warm up."""

    def call() -> None:
        function(*arguments)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(call, rounds=25, warmup_rounds=3)
