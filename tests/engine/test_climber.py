"""Other opinions: a higher top elsewhere is found, one found twice believed; last steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import images
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast import data, models, ops
from hcnn_fast.engine import climber
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.climber import FURTHER_OPINIONS, LOWER_SHARE, OPINIONS, Climber
from hcnn_fast.engine.runs import Runs

IMAGE = torch.full((1, 1, 1, 1), 0.35)
NEAR, FAR = 0.3, 0.75  # tops, of which the image's side leads to the first
TOGETHER = len(OPINIONS)  # runs in full precision: one, and all opinions but the last
CONFIG = hf.SearchConfig.mcn(0.45, steps=40, momentum=0.0, tolerance=1e-3, step_size=0.02)


def two_tops(z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
    """Log odds of the first class with a lower top at NEAR and a higher one at FAR."""
    where = z.flatten(1)
    odds = torch.exp(-300.0 * (where - NEAR) ** 2) + 2.0 * torch.exp(-100.0 * (where - FAR) ** 2)
    return torch.cat([odds, torch.zeros_like(odds)], 1)


def one_top(z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
    """Log odds of the first class with one top."""
    odds = 1.0 - (z.flatten(1) - 0.5) ** 2
    return torch.cat([odds, torch.zeros_like(odds)], 1)


def sure(z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
    """As sure as the tolerance asks for, or more."""
    return one_top(z) + torch.tensor([8.0, 0.0])


def slanted(z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
    """Log odds of the first class that rise evenly; the image's side is the second one's."""
    odds = 4.0 * (z.flatten(1) - 0.5)
    return torch.cat([odds, torch.zeros_like(odds)], 1)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs began together, every time in a search."""
    made: list[int] = []
    run = Climber._run

    def noting(self: Climber, candidates: Candidates, *arguments: object) -> tuple[Ascent, Tensor]:
        made.append(len(candidates))
        return run(self, candidates, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Climber, "_run", noting)
    return made


def test_a_higher_top_elsewhere_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.replace(labels=1)
    found = hf.search(two_tops, IMAGE, config)
    assert abs(float(found.point) - FAR) < 0.02
    monkeypatch.setattr(climber, "OPINIONS", ())
    monkeypatch.setattr(climber, "FURTHER_OPINIONS", ((0, 1.0),))
    alone = hf.search(two_tops, IMAGE, config)
    assert abs(float(alone.point) - NEAR) < 0.02
    assert float(found.value) > float(alone.value) + 0.1


def test_a_top_that_is_found_again_is_believed(runs: list[int]) -> None:
    hf.search(one_top, IMAGE, CONFIG.replace(labels=1))
    assert runs == [TOGETHER]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_where_nothing_agrees_all_opinions_are_asked(
    batch_size: int, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climber, "AGREED", -1.0)
    hf.search(one_top, IMAGE, CONFIG.replace(labels=1, batch_size=batch_size))
    assert runs == [TOGETHER, len(FURTHER_OPINIONS)]


def test_where_no_more_than_the_tolerance_is_to_be_had_no_further_one_is(
    runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climber, "AGREED", -1.0)
    hf.search(sure, IMAGE, CONFIG.replace(labels=1))
    assert runs == [TOGETHER]


def test_a_label_that_does_not_pass_the_leader_is_climbed_for_once(runs: list[int]) -> None:
    found = hf.search(slanted, IMAGE, CONFIG.replace(step_size=0.06))
    assert int(found.label) == 1
    assert 0.6 < float(found.label_value[0, 0]) < float(found.label_value[0, 1])
    assert runs == [TOGETHER, 1]


def test_without_a_tolerance_nothing_is_made_again(runs: list[int]) -> None:
    hf.search(two_tops, IMAGE, CONFIG.replace(tolerance=0.0))
    assert runs == [2]


class Lowered:
    """Stands for a model whose lower precision has the order of points the wrong way round."""

    lowered = True

    def exact(self, z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
        return slanted(z)

    def fast(self, z: Tensor) -> Tensor:  # [B, 1, 1, 1] -> [B, 2]
        return -slanted(z)


class Scarce(Lowered):
    """Has memory for so many rows of a step in full precision, and notes what was asked for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def exact(self, z: Tensor) -> Tensor:
        if z.requires_grad:
            self.asked.append(len(z))
            if len(z) > self.room:
                raise torch.OutOfMemoryError("made up")
        return super().exact(z)


def test_runs_in_a_lower_precision_are_chosen_by_their_exact_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(climber, "LAST_STEPS", (0.0,))
    config = CONFIG.replace(step_size=1e-7, steps=1)
    chooser = Climber(Lowered(), config, batch=8)  # type: ignore[arg-type]
    points = torch.tensor([0.2, 0.8, 0.5]).view(3, 1, 1, 1)
    label = torch.zeros(3, dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    candidates = Candidates(index=torch.zeros_like(label), label=label, point=points)
    best, second = chooser._run(candidates, ball, None, None, 3)
    torch.testing.assert_close(best.point, points[1:2], rtol=0.0, atol=1e-5)
    expected = torch.log_softmax(slanted(points), 1)[[1, 2], 0]
    torch.testing.assert_close(torch.cat([best.value, second]), expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("points", "confidence", "ended"),
    [
        ([0.2, 0.79, 0.7903], 0.0, 2),
        ([0.2, 0.79, 0.793], 0.0, 1),  # the second lies behind by more than the tolerance
        ([0.2, 0.79, 0.7903], 8.0, 0),  # no more than the tolerance is to be had
    ],
)
def test_last_steps_are_made_where_they_could_matter(
    points: list[float], confidence: float, ended: int
) -> None:
    class Surer(Scarce):
        def exact(self, z: Tensor) -> Tensor:
            return super().exact(z) + torch.tensor([confidence, 0.0])

    model = Surer(8)
    chooser = Climber(model, CONFIG.replace(steps=1, step_size=1e-7), batch=8)  # type: ignore[arg-type]
    label = torch.zeros(len(points), dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    start = torch.tensor(points)[:, None, None, None]
    candidates = Candidates(index=torch.zeros_like(label), label=label, point=start)
    best, second = chooser._run(candidates, ball, None, None, len(points))
    assert model.asked[:1] == [ended] * (ended > 0)
    assert float(best.point) >= max(points) - 1e-5
    assert float(best.value) >= float(second)
    expected = torch.log_softmax(model.exact(best.point), 1)[:, 0]
    torch.testing.assert_close(best.value, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("floor", "passes"),
    [
        (0.9, 1),  # which no point of the ball comes near to
        (0.7, 2),  # the first step leads to the end of the ball
    ],
)
def test_last_steps_end_where_what_has_to_be_passed_is_out_of_reach(
    floor: float, passes: int
) -> None:
    model = Scarce(8)
    chooser = Climber(model, CONFIG.replace(steps=1, step_size=1e-7), batch=8)  # type: ignore[arg-type]
    label = torch.zeros(1, dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    candidates = Candidates(index=label, label=label, point=torch.full((1, 1, 1, 1), 0.79))
    chooser._run(candidates, ball, None, torch.tensor([floor]))
    assert len(model.asked) == passes


@pytest.mark.parametrize(
    ("lowered", "tolerance", "shares"),
    [
        (True, 1e-3, [LOWER_SHARE, 0.5]),  # last steps in full precision follow
        (True, 0.0, [0.5]),
        (False, 1e-3, [0.5]),
    ],
)
def test_only_runs_that_last_steps_follow_end_with_more_in_reach(
    lowered: bool, tolerance: float, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def noted(forward: Any, candidates: Any, ball: Any, climb: Climb, **more: Any) -> Ascent:
        seen.append(climb.share)
        return ascend(forward, candidates, ball, climb, **more)

    monkeypatch.setattr(climber, "ascend", noted)
    model = Lowered()
    model.lowered = lowered
    config = CONFIG.replace(tolerance=tolerance)
    chooser = Climber(model, config, batch=8)  # type: ignore[arg-type]
    label = torch.zeros(1, dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    chooser.climb(Candidates(index=label, label=label, point=IMAGE), ball)
    assert seen == shares


@pytest.mark.parametrize(("room", "first", "left"), [(8, 4, 8), (2, 4, 4), (1, 4, 2)])
def test_last_steps_are_made_of_half_as_many_rows(room: int, first: int, left: int) -> None:
    model = Scarce(room)
    chooser = Climber(model, CONFIG.replace(steps=1), batch=8)  # type: ignore[arg-type]
    label = torch.zeros(8, dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    candidates = Candidates(
        index=torch.zeros_like(label),
        label=label,
        point=torch.linspace(0, 0.7, 8)[:, None, None, None],
    )
    best, _ = chooser._run(candidates, ball, None, None)
    assert len(best.point) == 8
    assert model.asked[0] == first == max(model.asked)
    assert chooser.batch == left


def test_the_run_towards_the_image_is_made_of_half_as_many_rows_of_a_lowered_model() -> None:
    """It is in full precision, whatever the first run was in."""
    model = Scarce(8)
    config = hf.SearchConfig.ncn(0.45, 0.6, steps=4)
    label = torch.zeros(8, dtype=torch.int64)
    ball = Ball(image=IMAGE, radius=0.45, bounds=(0.0, 1.0), backend="reference")
    point = torch.linspace(0.1, 0.7, 8)[:, None, None, None]
    candidates = Candidates(index=torch.zeros_like(label), label=label, point=point)
    Climber(model, config, batch=8).climb(candidates, ball)  # type: ignore[arg-type]
    assert set(model.asked) == {4}


def test_points_elsewhere_are_starts_that_no_run_has() -> None:
    x = images(3)
    ball = Ball(image=x, radius=0.1, bounds=(0.0, 1.0), backend="reference")
    start = torch.tensor([0, 1, 0, 1, 0, 1])
    every = Runs(
        ball=ball,
        hashes=ops.content_hash(x),
        index=torch.tensor([0, 0, 1, 1, 2, 2]),
        label=torch.tensor([4, 4, 0, 0, 1, 1]),
        start=start,
        starts=2,
        seed=7,
    )
    assert torch.equal(every.candidates().point[::2], x)
    which = torch.tensor([1, 4])
    points = [every.candidates().point[which]]
    points += [every.elsewhere(which, number) for number in (1, 2)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert bool((points[one] != points[other]).any(1).all())
    third = ops.random_starts(
        x,
        every.hashes,
        torch.tensor([0]),
        torch.tensor([4]),
        torch.tensor([3]),  # of starts 0 and 1, the second one after those
        seed=7,
        radius=0.1,
        bounds=(0.0, 1.0),
    )
    assert torch.equal(points[1][:1], third)


def test_last_steps_in_full_precision_make_up_for_a_lower_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = models.load("fashion-adversarial").eval()
    x = data.load("fashion-mnist-sample", "test").scaled()[:96]
    config = hf.SearchConfig.mcn(0.05, steps=18, momentum=0.0, tolerance=1e-3)
    full = hf.search(model, x, config)

    def lost() -> int:
        found = hf.search(model, x, config.replace(precision="bfloat16"))
        scored = torch.softmax(model(found.point), 1).gather(1, found.label[:, None])[:, 0]
        torch.testing.assert_close(found.value, scored, rtol=0.0, atol=1e-5)
        return int((full.value - found.value > 1e-3).sum())

    assert lost() <= 1
    monkeypatch.setattr(climber, "LAST_STEPS", (0.0,))
    assert lost() > 1
