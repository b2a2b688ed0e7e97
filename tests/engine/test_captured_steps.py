"""Captured steps: what an ascent finds by them is what it finds without.

Where there is no GPU, replays are played by the host, which does their work on the same memory.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_classifiers import images, smooth
from torch import Tensor, nn

from hcnn_fast import backends
from hcnn_fast.engine import captured_passes, captured_steps, graphs
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.captured_passes import CapturedPasses
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.rows import Rows
from hcnn_fast.engine.slopes import slope

SHAPE = (3, 8, 8)
CONSTANT = (0.04,) * 12
DECAY = tuple(0.1 * (1 - t / 12) for t in range(12))
CLIMBS = {
    "mcn": Climb(kind="log_probability", step_sizes=DECAY),
    "mcn, exact stops": Climb(kind="log_probability", step_sizes=CONSTANT),
    "mcn, momentum": Climb(kind="log_probability", step_sizes=DECAY, momentum=0.75),
    "mcn, tolerance": Climb(kind="log_probability", step_sizes=CONSTANT, tolerance=0.01),
    "hcnn": Climb(kind="probability", step_sizes=DECAY, distance_weight=0.5, norm="l2"),
    "downhill": Climb(kind="margin", step_sizes=DECAY, momentum=0.5, downhill=True),
    "entropy": Climb(kind="negative_entropy", step_sizes=DECAY, order=2.0),
}


@pytest.fixture(autouse=True)
def captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WORTH", 0)


def problem(device: torch.device, count: int = 5, seed: int = 0) -> tuple[Candidates, Ball]:
    x = images(count, SHAPE, seed=seed, dtype=torch.float64).to(device)
    index = torch.arange(count, device=device).repeat_interleave(5)
    candidates = Candidates(
        index=index, label=torch.arange(5, device=device).repeat(count), point=x[index].clone()
    )
    backend = backends.resolve("auto", device.type)
    return candidates, Ball(image=x, radius=0.1, bounds=(0.0, 1.0), backend=backend)


def both(
    device: torch.device, candidates: Candidates, ball: Ball, climb: Climb, **more: Any
) -> tuple[Ascent, Ascent, CapturedPasses]:
    """What is found by captured steps and without, and the captured ones."""
    classifier = smooth().double().to(device)
    passes = CapturedPasses(classifier, ball.image[:1])
    found = ascend(passes, candidates, ball, climb, **more)
    return found, ascend(classifier, candidates, ball, climb, **more), passes


def assert_same(found: Ascent, expected: Ascent) -> None:
    for name in ("point", "value", "logits"):
        got, wanted = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert torch.equal(found.steps, expected.steps)


@pytest.mark.parametrize("climb", CLIMBS.values(), ids=list(CLIMBS))
def test_an_ascent_by_captured_steps_finds_the_same(climb: Climb, device: torch.device) -> None:
    found, expected, passes = both(device, *problem(device), climb)
    assert_same(found, expected)
    assert passes.steps.captures.refused is None
    assert passes.steps.captures.kept
    if device.type == "cpu" and climb.tolerance > 0.0:  # else bits decide which batches shrink
        assert (found.forwards, found.backwards) == (expected.forwards, expected.backwards)


def test_paces_and_floors_are_laid_in_too(device: torch.device) -> None:
    candidates, ball = problem(device)
    pace = torch.linspace(0.5, 2.0, len(candidates), dtype=torch.float64, device=device)
    candidates = replace(candidates, pace=pace)
    floor = torch.linspace(0.0, 0.9, len(candidates), dtype=torch.float64, device=device)
    found, expected, passes = both(device, candidates, ball, CLIMBS["mcn, tolerance"], floor=floor)
    assert_same(found, expected)
    assert len(set(expected.steps.tolist())) > 1
    assert len(passes.steps.captures.kept) > 1  # batches of several sizes


def test_what_a_graph_holds_for_ever_tells_steps_apart(device: torch.device) -> None:
    candidates, ball = problem(device)
    classifier = smooth().double().to(device)
    passes = CapturedPasses(classifier, ball.image[:1])
    pace = torch.linspace(0.5, 2.0, len(candidates), dtype=torch.float64, device=device)
    floor = torch.linspace(0.0, 0.9, len(candidates), dtype=torch.float64, device=device)
    up = CLIMBS["mcn, momentum"]
    problems: list[tuple[Candidates, Ball, Climb, Tensor | None]] = [
        (candidates, ball, up, None),
        (candidates, replace(ball, radius=0.03), up, None),
        (candidates, replace(ball, bounds=(0.2, 0.8)), up, None),
        (replace(candidates, pace=pace), ball, up, None),
        (candidates, ball, replace(up, momentum=0.2), None),
        (candidates, ball, replace(up, tolerance=0.01), None),
        (candidates, ball, replace(up, tolerance=0.01), floor),
        (candidates, ball, replace(up, tolerance=0.2), None),
        (candidates, ball, replace(up, distance_weight=0.5), None),
        (candidates, ball, replace(up, distance_weight=0.5, norm="l1"), None),
    ]
    for some, around, climb, least in problems * 2:
        found = ascend(passes, some, around, climb, floor=least)
        assert_same(found, ascend(classifier, some, around, climb, floor=least))


def test_steps_are_captured_while_there_is_room(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, ball = problem(device)
    passes = CapturedPasses(smooth().double().to(device), ball.image[:1])
    one = captured_passes.LARGEST // passes.most
    monkeypatch.setattr(captured_passes, "LARGEST", 31 * one)
    bounded = CapturedPasses(smooth().double().to(device), ball.image[:1])
    ascend(bounded, candidates, ball, CLIMBS["mcn, momentum"])  # 25 rows are filled up to 32
    assert not bounded.steps.captures.kept
    ascend(bounded, candidates.rows(slice(0, 24)), ball, CLIMBS["mcn, momentum"])
    assert len(bounded.steps.captures.kept) == 1


def test_slopes_that_are_given_stay_as_they_are(device: torch.device) -> None:
    candidates, ball = problem(device)
    climb = CLIMBS["mcn"]
    classifier = smooth().double().to(device)
    first = slope(
        classifier, candidates.point, candidates.label, climb.kind, climb.order, ball.backend
    )
    before = first.logits.clone()
    found, expected, _ = both(device, candidates, ball, climb, first=first)
    assert_same(found, expected)
    assert torch.equal(first.logits, before)


def test_a_batch_is_captured_when_as_many_steps_were_made_without(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "WORTH", 8)
    candidates, ball = problem(device)
    passes = CapturedPasses(smooth().double().to(device), ball.image[:1])
    short = replace(CLIMBS["mcn, momentum"], step_sizes=DECAY[:4])
    kept = []
    for _ in range(3):  # 4 steps each, and none is captured in the middle of an ascent
        ascend(passes, candidates, ball, short)
        kept.append(len(passes.steps.captures.kept))
    assert kept == [0, 0, 1]


def test_steps_are_captured_once_for_each_size_and_kind(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    captured = captured_steps.graph_of

    def counted(work: Any, device: torch.device) -> Any:
        made.append(1)
        return captured(work, device)

    monkeypatch.setattr(captured_steps, "graph_of", counted)
    candidates, ball = problem(device)
    up = "mcn, momentum"  # no run leaves the batch
    classifier = smooth().double().to(device)
    passes = CapturedPasses(classifier, ball.image[:1])
    for rows, climb in ((25, up), (24, up), (25, up), (17, up), (25, "downhill")):
        some, plain = candidates.rows(slice(0, rows)), CLIMBS[climb]
        found = ascend(passes, some, ball, plain)
        assert_same(found, ascend(classifier, some, ball, plain))
    kind, order, backend = CLIMBS[up].kind, CLIMBS[up].order, ball.backend
    first = slope(classifier, candidates.point, candidates.label, kind, order, backend)
    ascend(passes, candidates, ball, CLIMBS[up], first=first)
    # Batches of 32 and 24 going uphill, and of 32 going down.
    assert len(made) == 3


def test_rows_that_lay_there_before_are_nobodys(device: torch.device) -> None:
    classifier = smooth().double().to(device)
    candidates, ball = problem(device)
    passes = CapturedPasses(classifier, ball.image[:1])
    for climb in (CLIMBS["mcn, exact stops"], CLIMBS["mcn, momentum"], CLIMBS["hcnn"]):
        ascend(passes, candidates, ball, climb)
        others, elsewhere = problem(device, seed=1)
        for rows in (torch.arange(25), torch.tensor([20, 3, 3, 9] * 5)):  # both are filled up
            some = others.rows(rows.to(device))
            found = ascend(passes, some, elsewhere, climb)
            assert_same(found, ascend(classifier, some, elsewhere, climb))


def test_without_a_tolerance_a_captured_batch_stays_as_large(device: torch.device) -> None:
    """Another size is filled up otherwise, and no pass tells what a graph would round to."""
    climb = replace(CLIMBS["mcn, exact stops"], step_sizes=CONSTANT * 3)
    found, expected, passes = both(device, *problem(device), climb)
    for name in ("point", "value", "logits"):
        got, wanted = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert bool((found.steps < len(climb.step_sizes)).any())
    assert len(passes.steps.captures.kept) == 1


@pytest.mark.parametrize("name", ["best", "best_value", "best_logits", "buffer", "reach", "label"])
def test_a_step_is_compared_in_all_that_it_writes_and_for_all_labels(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = captured_steps.graph_of

    def spoilt(work: Any, device: torch.device) -> Any:
        replay, rows = captured(work, device), work.__self__._rows

        def answer() -> None:
            if name == "label":
                rows.label.zero_()
            replay()
            if name != "label":
                getattr(rows, name).mul_(1.1)

        return answer

    monkeypatch.setattr(captured_steps, "graph_of", spoilt)
    climb = replace(CLIMBS["mcn, momentum"], tolerance=1e-9)  # what is in reach is asked for
    found, expected, passes = both(device, *problem(device), climb)
    assert_same(found, expected)
    assert not passes.steps.captures.kept


def test_a_point_without_a_value_keeps_no_logits_of_another(device: torch.device) -> None:
    """A search refuses such logits; those of rows that lay there before would pass."""
    classifier = smooth().double().to(device)

    def forward(z: Tensor) -> Tensor:
        logits: Tensor = classifier(z)
        return logits * torch.where(z.flatten(1).amax(1) > 1.5, torch.nan, 1.0)[:, None]

    candidates, ball = problem(device)
    ball = replace(ball, bounds=(0.0, 3.0))
    passes = CapturedPasses(forward, ball.image[:1])
    # The comparison's points may lie where the model has no value.
    passes.steps._image = ball.image[:1] * 0.0
    climb = CLIMBS["mcn, momentum"]
    assert bool(ascend(passes, candidates, ball, climb).logits.isfinite().all())
    high = replace(ball, image=ball.image + 2.0)
    found = ascend(passes, candidates.at(candidates.point + 2.0), high, climb)
    assert passes.steps.captures.refused is None
    assert bool(found.logits.isnan().all())


def test_a_step_whose_replay_answers_otherwise_is_not_taken(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = captured_steps.graph_of

    def deaf(work: Any, device: torch.device) -> Any:
        captured(work, device)
        return lambda: None

    monkeypatch.setattr(captured_steps, "graph_of", deaf)
    found, expected, passes = both(device, *problem(device), CLIMBS["mcn, momentum"])
    assert_same(found, expected)
    assert (
        passes.steps.captures.refused == "RuntimeError: a replay gives other values than the model"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_model_that_waits_for_the_host_is_not_captured_and_harms_nothing() -> None:
    classifier = smooth().double().cuda()

    def forward(z: Tensor) -> Tensor:
        answer: Tensor = classifier(z)
        return answer if float(z.amax()) < 1e6 else -answer

    candidates, ball = problem(torch.device("cuda"))
    passes = CapturedPasses(forward, ball.image[:1])
    found = ascend(passes, candidates, ball, CLIMBS["mcn, momentum"])
    assert passes.steps.captures.refused is not None
    assert_same(found, ascend(classifier, candidates, ball, CLIMBS["mcn, momentum"]))
    torch.cuda.empty_cache()
    torch.rand(1, device="cuda")
    other = CapturedPasses(classifier, ball.image[:1])
    ascend(other, candidates, ball, CLIMBS["mcn, momentum"])
    assert other.steps.captures.kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_graph_outlives_the_one_that_was_captured_before_it() -> None:
    """Of the workspaces of cuBLAS none may lie in another graph's memory."""
    candidates, ball = problem(torch.device("cuda"))
    classifier, climb = smooth().double().cuda(), CLIMBS["mcn, momentum"]
    expected = ascend(classifier, candidates, ball, climb)
    first, second = (CapturedPasses(classifier, ball.image[:1]) for _ in range(2))
    for passes in (first, second):
        assert_same(ascend(passes, candidates, ball, climb), expected)
    del first, passes
    gc.collect()
    torch.cuda.empty_cache()
    third = CapturedPasses(classifier, ball.image[:1])
    for passes in (third, second):
        assert_same(ascend(passes, candidates, ball, climb), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_capture_uses_up_no_random_numbers() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = smooth()

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1, device=x.device)  # which do not matter
            answer: Tensor = self.inside(x)
            return answer

    device = torch.device("cuda")
    candidates, ball = problem(device)
    passes = CapturedPasses(Draws().double().to(device), ball.image[:1])
    rows = Rows.of(candidates, ball, CLIMBS["mcn"], None)
    most = passes.most
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    assert passes.steps.of(rows, ball, CLIMBS["mcn"], 12) is not None
    assert passes.captures.get(32, 32, most, lambda: passes._capture(32)) is not None
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
