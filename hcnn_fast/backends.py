"""Which implementation of the operations runs where, and the reason when one cannot."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
from functools import cache
from typing import Any

import numpy
import torch

from hcnn_fast._version import __version__

REBUILD = "pip install --no-build-isolation -e ."
NAMES = ("reference", "cpu", "cuda", "triton")
OPERATIONS = (
    "label_objective",
    "pgd_step_",
    "backtracking_step_",
    "content_hash",
    "random_starts",
    "select",
    "winograd_convolution",
)


@cache
def _load_extension() -> str | None:
    """Import the compiled extension, which registers its operations; the reason if it fails."""
    try:
        importlib.import_module("hcnn_fast._C")
    except ImportError as error:
        return f"the compiled extension does not load ({error}); build it: {REBUILD}"
    for name in OPERATIONS:
        if not hasattr(torch.ops.hcnn_fast, name):
            return f"the compiled extension is older than the package, without {name}: {REBUILD}"
    return None


@cache
def compiled() -> dict[str, Any]:
    """What the extension was compiled with; empty where it does not load."""
    if _load_extension() is not None:
        return {}
    config: dict[str, Any] = json.loads(torch.ops.hcnn_fast.build_config())
    return config


@cache
def _unavailable(name: str) -> str | None:
    """Why the backend cannot run in this process at all, or None if it can."""
    if name == "reference":
        return None
    if name == "cpu":
        return _load_extension()
    if name == "cuda":
        missing = _load_extension()
        if missing is not None:
            return missing
        if not compiled()["cuda"]:
            return f"compiled without CUDA ({compiled()['cuda_reason']}); then rebuild: {REBUILD}"
        return None if torch.cuda.is_available() else "torch sees no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install triton, or use 'auto'"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "torch sees no CUDA device; for tests, TRITON_INTERPRET=1 interprets the kernels (slow)"


def _unusable_kernels(device_type: str) -> str | None:
    """Why the Triton kernels cannot serve tensors of a device type; imports them."""
    try:
        kernels = importlib.import_module("hcnn_fast.kernels")
    except ImportError as error:
        return f"the Triton kernels do not load ({error}); pip install triton, or use 'auto'"
    if device_type == "cuda" or (device_type == "cpu" and kernels.INTERPRETED):
        return None
    return f"the tensors are on {device_type!r}; move model and images to a GPU, or use 'auto'"


def _automatic(device_type: str) -> str:
    """The fastest backend that can run for tensors of a device type."""
    if device_type in NAMES and not _unavailable(device_type):
        return device_type
    if device_type == "cuda" and not (_unavailable("triton") or _unusable_kernels("cuda")):
        return "triton"
    return "reference"


def reasons() -> dict[str, str | None]:
    """For every backend None if it can run in this process, or the reason why not."""
    return {name: _unavailable(name) for name in NAMES}


@cache
def resolve(name: str, device_type: str) -> str:
    """The backend that serves `name` for tensors of a device type ("cpu", "cuda").

    "auto" (which the environment variable HCNN_FAST_BACKEND may replace) takes the compiled
    operations where they exist, on a GPU else the Triton kernels, and the reference elsewhere.

    Raises:
        RuntimeError: an explicitly chosen backend cannot run; says why and what mends it.
        ValueError: no backend has that name.
    """
    source = "backend"
    if name == "auto":
        source, name = "HCNN_FAST_BACKEND", os.environ.get("HCNN_FAST_BACKEND", "auto")
    if name == "auto":
        return _automatic(device_type)
    if name not in NAMES:
        raise ValueError(f"{source} is {name!r}, expected 'auto' or one of {', '.join(NAMES)}")
    reason = _unavailable(name)
    if reason is None and name in ("cpu", "cuda") and name != device_type:
        reason = f"the tensors are on {device_type!r}; move model and images, or use 'auto'"
    if reason is None and name == "triton":
        reason = _unusable_kernels(device_type)
    if reason is not None:
        raise RuntimeError(f"{source} {name!r} cannot run: {reason}")
    return name


def float32_products() -> dict[str, str]:
    """How torch multiplies float32 on CUDA now: "ieee", "tf32", or "none" (torch's default).

    These are switches of the whole process (`torch.backends.cuda.matmul.fp32_precision`,
    `torch.backends.cudnn.conv.fp32_precision`). A search runs under them and never sets them.
    """
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "matrices": cuda.matmul.fp32_precision,
        "convolutions": cudnn.conv.fp32_precision,  # type: ignore[attr-defined]  # set at import
    }


def build_info() -> dict[str, Any]:
    """Versions, what was compiled (cpu, cuda archs, openmp), and which backends can run."""
    return {
        "hcnn_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda_float32_products": float32_products(),
        "compiled": compiled(),
        "backends": {name: "can run" if why is None else why for name, why in reasons().items()},
    }
