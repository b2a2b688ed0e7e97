"""The backends as a fixture: one that cannot run is skipped with its reason."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from op_backends import skip_unless_it_runs

from hcnn_fast import backends

# The same examples in every run, and no limit on an example's time: machines differ.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

COMPILED = ("cpu", "cuda")


def call_with_less_patching(patch: pytest.MonkeyPatch) -> None:
    """Spare the interpreter what it repeats at every call of a function from a kernel.

    It replaces the language's functions anew each time, which takes nine tenths of the time.
    """
    try:
        from triton.runtime.interpreter import InterpretedFunction
    except ImportError:
        return
    first, seen = InterpretedFunction.__call__, set[Any]()

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        if function in seen:
            return function.rewrite()(*args, **kwargs)
        seen.add(function)
        return first(function, *args, **kwargs)

    patch.setattr(InterpretedFunction, "__call__", call)


@contextmanager
def interpreted() -> Iterator[None]:
    """Triton's interpreter where there is no GPU; afterwards the environment says nothing of it."""

    def look_again() -> None:
        backends._unavailable.cache_clear()
        backends.resolve.cache_clear()

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")
            call_with_less_patching(patch)
        look_again()
        yield
    look_again()


# At once, for how Triton's own functions run is settled when something first imports it.
with interpreted(), suppress(ImportError):
    importlib.import_module("hcnn_fast.kernels")


@pytest.fixture
def triton_interpreter() -> Iterator[None]:
    """Let the Triton kernels run on the CPU, interpreted, where there is no GPU."""
    with interpreted():
        yield


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
