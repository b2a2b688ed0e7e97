"""Tensors of more than 2^31 entries, where 32-bit offsets would wrap."""

from __future__ import annotations

import os

import pytest
import torch
from op_backends import skip_unless_it_runs

from hcnn_fast import ops

pytestmark = [pytest.mark.large, pytest.mark.slow]
BEYOND = 2**31


def free_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_with(backend: str, gigabytes: int) -> torch.device:
    """The backend's device, if the memory suffices."""
    skip_unless_it_runs(backend)
    if free_bytes(backend) < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of free memory")
    return torch.device(backend)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_last_row_of_many_logits_is_reached(backend: str) -> None:
    device = device_with(backend, 12)
    classes = 1024
    rows = BEYOND // classes + 3
    logits = torch.zeros(rows, classes, dtype=torch.bfloat16, device=device)
    labels = torch.zeros(rows, dtype=torch.int64, device=device)
    logits[-1, -1], labels[-1] = 9.0, classes - 1
    value = torch.empty(rows, device=device)
    gradient = torch.empty_like(logits)
    ops.label_objective(
        logits, labels, "probability", value=value, gradient=gradient, backend=backend
    )
    odds = torch.tensor(9.0).exp() / (classes - 1)
    assert float(value[-1]) == pytest.approx(float(odds / (1 + odds)), rel=1e-6)
    assert torch.equal(value[:-1], torch.full_like(value[:-1], 1 / classes))
    own = float(value[-1] * (1 - value[-1]))
    assert float(gradient[-1, -1]) == pytest.approx(own, rel=1e-2)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_last_candidate_of_many_is_moved(backend: str) -> None:
    device = device_with(backend, 14)
    elements = 3 * 2**20
    rows = BEYOND // elements + 2
    point = torch.zeros(rows, elements, device=device)
    gradient = torch.zeros(rows, elements, dtype=torch.bfloat16, device=device)
    gradient[-1, -1] = 1.0
    motion = torch.empty(rows, dtype=torch.uint8, device=device)
    ops.pgd_step_(
        point,
        gradient,
        torch.zeros(1, elements, device=device),
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.full((rows,), 0.25, device=device),
        radius=0.5,
        bounds=(0.0, 1.0),
        motion=motion,
        backend=backend,
    )
    assert point[-1, -2:].tolist() == [0.0, 0.25]
    assert motion.tolist() == [1] * (rows - 1) + [0]
