"""Compile the CUDA kernels' row programs for emulated blocks on the CPU, and call them."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc"
FLAGS = [
    "-O0",
    "-std=c++20",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
    "-pthread",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]


def build(folder: Path, namespace: str, sources: Path = SOURCES) -> Any:
    """Operations compiled from a folder like csrc, registered under `torch.ops.<namespace>`."""
    library = folder / f"{namespace}.so"
    torch_folder = Path(torch.__file__).parent
    command = [
        os.environ.get("CXX", "g++").split()[0],
        *FLAGS,
        f"-DHCNN_FAST_EMULATED={namespace}",
        *(flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)),
        f"-I{sysconfig.get_path('include')}",
        f"-I{sources}",
        str(HERE / "emulated.cpp"),
        f"-o{library}",
        f"-L{torch_folder / 'lib'}",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.ops.load_library(str(library))
    return getattr(torch.ops, namespace)
