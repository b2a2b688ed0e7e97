"""What only a GPU can show: streams, graphs, no waiting; short enough for compute-sanitizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from op_backends import skip_unless_it_runs
from op_differences import differences
from step_arguments import WRITTEN, Arguments, duplicate, step_arguments
from torch import Tensor

from hcnn_fast import ops

pytestmark = [
    pytest.mark.sanitizer,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
gpu_backend = pytest.mark.parametrize("backend", ["cuda", "triton"])


@pytest.fixture(autouse=True)
def running(backend: str) -> None:
    skip_unless_it_runs(backend)


class OnGpu:
    """The operations of a backend for tensors on the CPU, computed on the GPU."""

    def __init__(self, backend: str) -> None:
        self.operations = ops.implementation(backend)

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            moved = [a.cuda() if isinstance(a, Tensor) else a for a in arguments]
            getattr(self.operations, name)(*moved)
            for mine, theirs in zip(arguments, moved, strict=True):
                if isinstance(mine, Tensor):
                    mine.copy_(theirs)

        return call


@gpu_backend
def test_nothing_differs_from_the_reference(backend: str) -> None:
    assert differences(OnGpu(backend)) == set()


def step_and_objective(arguments: Arguments, logits: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    value, gradient = torch.empty(len(logits), device="cuda"), torch.empty_like(logits)
    ops.label_objective(
        logits,
        arguments["image_index"],
        "probability",
        value=value,
        gradient=gradient,
        backend=backend,
    )
    ops.pgd_step_(**{**arguments, "value": value}, backend=backend)
    return value, gradient


@pytest.fixture
def arguments() -> Arguments:
    return step_arguments(
        rows=9, shape=(3, 8, 8), copy_dtype=torch.bfloat16, special=True, device="cuda"
    )


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(9, 10, device="cuda")


@gpu_backend
def test_a_captured_step_replays_as_it_runs(
    backend: str, arguments: Arguments, logits: Tensor
) -> None:
    expected, captured = duplicate(arguments), duplicate(arguments)
    step_and_objective(duplicate(arguments), logits, backend)  # compiles before the capture
    for _ in range(3):
        step_and_objective(expected, logits, backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step_and_objective(captured, logits, backend)
    for name in WRITTEN:
        captured[name].copy_(arguments[name])
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    for name in WRITTEN:
        assert torch.equal(captured[name].nan_to_num(), expected[name].nan_to_num()), name


@pytest.fixture
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@gpu_backend
def test_a_step_neither_waits_nor_allocates(
    backend: str, arguments: Arguments, no_waiting: None
) -> None:
    ops.pgd_step_(**arguments, backend=backend)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    ops.pgd_step_(**arguments, backend=backend)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@gpu_backend
def test_a_step_runs_on_the_current_stream(
    backend: str, arguments: Arguments, logits: Tensor
) -> None:
    expected, got = duplicate(arguments), duplicate(arguments)
    step_and_objective(expected, logits, backend)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        got["gradient"].mul_(1.0)
        step_and_objective(got, logits, backend)
        assert not stream.query()
    stream.synchronize()
    assert torch.equal(got["point"], expected["point"])
