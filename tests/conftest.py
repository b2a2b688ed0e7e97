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


INTERPRET = "TRITON_INTERPRET"


def forget_what_can_run() -> None:
    """Let the package look again which backends can run."""
    backends._unavailable.cache_clear()
    backends.resolve.cache_clear()


@contextmanager
def interpreted() -> Iterator[None]:
    """Triton's interpreter where there is no GPU; outside, the environment says nothing of it."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        if not torch.cuda.is_available():
            patch.setenv(INTERPRET, "1")
        forget_what_can_run()
        yield
    forget_what_can_run()


# Before a test can import Triton without it: how its functions run is settled at its import.
with interpreted(), suppress(ImportError):
    importlib.import_module("hcnn_fast.kernels")


@pytest.fixture(params=COMPILED)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a backend that can run, to be compared with the reference."""
    name: str = request.param
    with interpreted() if name == "triton" else nullcontext():
        skip_if_it_cannot_run(name)
        yield name


def skip_if_it_cannot_run(name: str) -> None:
    """Skip with the reason; fail where the backend is required."""
    skip_unless_it_runs(name)
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the backend's tensors live."""
    return torch.device(backend)
