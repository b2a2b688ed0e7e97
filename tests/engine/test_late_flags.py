"""Flags arrive at once on a CPU, and one question late on a GPU, whose queue is not waited for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiny_classifiers import images, smooth
from torch import Tensor

from hcnn_fast import backends
from hcnn_fast.engine import ascent, graphs
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.captured_passes import CapturedPasses
from hcnn_fast.engine.climb import Climb
from hcnn_fast.engine.late_flags import LateFlags

STEPS = (0.04,) * 36
CLIMBS = {
    "exact stops": Climb(kind="log_probability", step_sizes=STEPS),
    "tolerance": Climb(kind="log_probability", step_sizes=STEPS, tolerance=0.01),
    "momentum": Climb(kind="log_probability", step_sizes=STEPS, tolerance=0.01, momentum=0.2),
}


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


class Late(LateFlags):
    """A CPU that answers as late as a GPU."""

    questions = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.every = 2
        self.asked: Tensor | None = None

    def exchange(self, flags: Tensor) -> Tensor | None:
        Late.questions += 1
        asked, self.asked = self.asked, flags.cpu().clone()
        return asked

    def forget(self) -> None:
        self.asked = None


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
@pytest.mark.parametrize("climb", CLIMBS.values(), ids=list(CLIMBS))
def test_runs_that_end_later_than_they_could_find_as_much(
    climb: Climb, captured: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "WORTH", 0)
    x = images(5, (3, 8, 8), dtype=torch.float64).to(device)
    index = torch.arange(5, device=device).repeat_interleave(5)
    label = torch.arange(5, device=device).repeat(5)
    candidates = Candidates(index=index, label=label, point=x[index])
    backend = backends.resolve("auto", device.type)
    ball = Ball(image=x, radius=0.1, bounds=(0.0, 1.0), backend=backend)
    classifier = smooth().double().to(device)
    expected = ascend(classifier, candidates, ball, climb)
    full = ascend(classifier, candidates, ball, replace(climb, tolerance=0.0, may_stop=False))
    monkeypatch.setattr(ascent, "LateFlags", Late)
    Late.questions = 0
    forward = CapturedPasses(classifier, x[:1]) if captured else classifier
    late = ascend(forward, candidates, ball, climb)
    assert 0 < Late.questions <= int(late.steps.max()) // 2
    assert device.type != "cpu" or bool((late.steps >= expected.steps).all())
    assert bool((late.steps < full.steps).any())
    assert bool((late.value >= expected.value - 1e-9).all())
    if climb.tolerance == 0.0:
        torch.testing.assert_close(late.point, full.point, rtol=0, atol=1e-9)
        torch.testing.assert_close(late.logits, full.logits, rtol=0, atol=1e-9)
