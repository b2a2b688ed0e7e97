"""The implementations of the operations: those of the package, and the emulated CUDA kernels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from op_backends import EMULATED, skip_unless_it_runs

from hcnn_fast import backends, ops

sys.path.insert(0, str(Path(__file__).parents[1] / "emulation"))


@pytest.fixture(scope="session")
def emulated_operations(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The operations of the emulated CUDA kernels, compiled once."""
    from emulation import build

    return build(tmp_path_factory.mktemp("emulation"), "hcnn_fast_emulated")


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a backend that can run; the emulated one is known to `ops` during the test."""
    name: str = request.param
    if name == "triton":
        request.getfixturevalue("triton_interpreter")
    if name != EMULATED:
        skip_unless_it_runs(name)
        return name
    operations = request.getfixturevalue("emulated_operations")
    resolve, implementation = backends.resolve, ops.implementation

    def resolve_emulated(chosen: str, device_type: str) -> str:
        return EMULATED if chosen == EMULATED else resolve(chosen, device_type)

    def find_emulated(chosen: str) -> Any:
        return operations if chosen == EMULATED else implementation(chosen)

    monkeypatch.setattr(backends, "resolve", resolve_emulated)
    monkeypatch.setattr(ops, "implementation", find_emulated)
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    """The device whose tensors a backend takes."""
    on_gpu = backend == "cuda" or (backend == "triton" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")
