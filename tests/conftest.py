"""The backends as a fixture: one that cannot run is skipped with its reason."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from hcnn_fast import backends

# The same examples in every run, and no limit on an example's time: machines differ.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

COMPILED = ("cpu", "cuda")


def required() -> set[str]:
    """Backends that must run here, from HCNN_FAST_REQUIRED_BACKENDS: to skip one is to fail."""
    return set(filter(None, os.environ.get("HCNN_FAST_REQUIRED_BACKENDS", "").split(",")))


@pytest.fixture(params=COMPILED)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend that can run, to be compared with the reference."""
    name: str = request.param
    reason = backends.reasons()[name]
    if reason is not None and name in required():
        pytest.fail(f"backend {name!r} is required and cannot run: {reason}")
    if reason is not None:
        pytest.skip(f"backend {name!r}: {reason}")
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the backend's tensors live."""
    return torch.device(backend)
