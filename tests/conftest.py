"""The backends as a fixture: one that cannot run is skipped with its reason."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from op_backends import skip_unless_it_runs

# The same examples in every run, and no limit on an example's time: machines differ.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

COMPILED = ("cpu", "cuda")


@pytest.fixture(params=COMPILED)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend that can run, to be compared with the reference."""
    name: str = request.param
    skip_unless_it_runs(name)
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the backend's tensors live."""
    return torch.device(backend)
