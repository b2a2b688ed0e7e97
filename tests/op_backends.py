"""Which implementations of the operations are tested, and how one of them is chosen."""

from __future__ import annotations

import os

import pytest

from hcnn_fast import backends

# The CUDA kernels' row programs on emulated blocks: what a CPU can tell of them.
EMULATED = "emulated"
NAMES = (*backends.NAMES, EMULATED)

every_backend = pytest.mark.parametrize("backend", NAMES, indirect=True)
fast_backend = pytest.mark.parametrize(
    "backend", [name for name in NAMES if name != "reference"], indirect=True
)


def required() -> set[str]:
    """Backends that must run here, from HCNN_FAST_REQUIRED_BACKENDS: to skip one is to fail."""
    return set(filter(None, os.environ.get("HCNN_FAST_REQUIRED_BACKENDS", "").split(",")))


def skip_unless_it_runs(name: str) -> None:
    """Skip the test, or fail it where the backend is required, with the reason."""
    reason = backends.reasons()[name]
    if reason is not None and name in required():
        pytest.fail(f"backend {name!r} is required and cannot run: {reason}")
    if reason is not None:
        pytest.skip(f"backend {name!r}: {reason}")
