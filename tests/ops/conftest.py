"""Where the tensors of each backend live, the reference among them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device(backend: str) -> torch.device:
    """The device whose tensors a backend takes."""
    return torch.device("cuda" if backend in ("cuda", "triton") else "cpu")
