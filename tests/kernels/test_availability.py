"""Where the Triton kernels run, and what is said where they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hcnn_fast
from hcnn_fast import backends

WITHOUT_THE_INTERPRETER = """
import sys
from hcnn_fast import backends
assert "triton" not in sys.modules
backends.torch.cuda.is_available = lambda: True  # a GPU, and images that are not on it
backends._unavailable.cache_clear()
try:
    backends.resolve("triton", "cpu")
except RuntimeError as error:
    print(error)
assert backends._automatic("cuda") in ("cuda", "triton")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them")
def test_without_gpu_and_interpreter_the_reason_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"torch sees no CUDA device; .*TRITON_INTERPRET=1"):
        backends.resolve("triton", "cpu")


@pytest.mark.usefixtures("triton_interpreter")
def test_other_devices_are_refused_and_auto_never_interprets() -> None:
    with pytest.raises(RuntimeError, match=r"tensors are on 'mps'.*use 'auto'"):
        backends.resolve("triton", "mps")
    assert backends._automatic("cpu") in ("cpu", "reference")
    assert backends._automatic("mps") == "reference"


def test_compiled_kernels_refuse_tensors_of_the_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_INTERPRETER],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        cwd=Path(hcnn_fast.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "'triton' cannot run: the tensors are on 'cpu'" in done.stdout
