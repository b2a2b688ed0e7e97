"""Flags arrive at once on a CPU, and one question late on a GPU, whose queue is not waited for."""

from __future__ import annotations

import itertools

import pytest
import torch

from hcnn_fast.engine.late_flags import LateFlags


def test_a_cpu_says_at_once_what_it_is_asked() -> None:
    flags = LateFlags(torch.device("cpu"))
    for asked in (torch.tensor([True, False]), torch.tensor([False, False, True])):
        assert flags.exchange(asked) is asked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_says_what_it_was_asked_before() -> None:
    flags = LateFlags(torch.device("cuda"))
    asked = [torch.rand(1000, device="cuda") < 0.5 for _ in range(4)]
    assert flags.exchange(asked[0]) is None
    for before, now in itertools.pairwise(asked):
        told = flags.exchange(now)
        assert told is not None
        assert told.device.type == "cpu"
        assert torch.equal(told, before.cpu())
    flags.forget()
    assert flags.exchange(asked[0]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_asking_a_gpu_does_not_wait_for_its_queue() -> None:
    flags = LateFlags(torch.device("cuda"))
    asked = torch.zeros(8, dtype=torch.bool, device="cuda")
    for _ in range(2):  # takes its pinned memory
        flags.exchange(asked)
    torch.cuda.synchronize()
    torch.cuda._sleep(10**9)  # cycles: half a second
    busy = torch.cuda.Event()
    busy.record()
    told = flags.exchange(asked)
    assert told is not None
    assert not busy.query()
    torch.cuda.synchronize()
