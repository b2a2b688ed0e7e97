"""Runs that end early: what they find is what they would have found."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

from hcnn_fast.engine.ascent import SHRINK_AT, ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.slopes import Forward, slope

RADIUS = 0.1
CONSTANT = (0.05,) * 12
DECAY = tuple(0.1 * (1 - t / 12) for t in range(12))


def problem(count: int, labels: int = 5) -> tuple[Candidates, Ball]:
    x = images(count)
    index = torch.arange(count).repeat_interleave(labels)
    candidates = Candidates(
        index=index, label=torch.arange(labels).repeat(count), point=x[index].clone()
    )
    return candidates, Ball(image=x, radius=RADIUS, bounds=(0.0, 1.0), backend="cpu")


def both(forward: Forward, climb: Climb, labels: int = 5) -> tuple[Ascent, Ascent]:
    """The runs with exact stops and without."""
    candidates, ball = problem(8, labels)
    assert climb.stops_at_rest
    free = replace(climb, may_stop=False)
    assert not free.stops_at_rest
    return ascend(forward, candidates, ball, climb), ascend(forward, candidates, ball, free)


@pytest.mark.parametrize("sizes", [CONSTANT, DECAY], ids=["constant", "decay"])
@pytest.mark.parametrize("make", [linear, convolutional], ids=["linear", "convolutional"])
@pytest.mark.parametrize("kind", ["log_probability", "margin", "negative_entropy"])
def test_exact_stops_change_no_bit(
    make: type[torch.nn.Module], sizes: tuple[float, ...], kind: str
) -> None:
    on, off = both(make(), Climb(kind=kind, step_sizes=sizes))
    assert torch.equal(on.point, off.point)
    assert torch.equal(on.value, off.value)
    assert torch.equal(on.logits, off.logits)
    assert bool((off.steps == len(sizes)).all())
    assert bool((on.steps <= off.steps).all())


@pytest.mark.parametrize("sizes", [CONSTANT, DECAY], ids=["constant", "decay"])
@pytest.mark.parametrize("few", [1, 12, 30])
def test_a_library_that_rounds_products_of_few_rows_otherwise_is_seen(
    few: int, sizes: tuple[float, ...]
) -> None:
    """The corner is found early by most runs; those that go on stay in a batch that is large."""
    model, passes = linear(), []

    def forward(z: Tensor) -> Tensor:
        passes.append(len(z))
        return model(z) * (1.0 + 1e-6 * (len(z) < few))

    on, off = both(forward, Climb(kind="log_probability", step_sizes=sizes))
    for field in ("point", "value", "logits"):
        assert torch.equal(getattr(on, field), getattr(off, field)), field
    assert bool((on.steps < off.steps).any())
    tried = [size for size in passes if size < few]
    assert all(b <= SHRINK_AT * a for a, b in itertools.pairwise(tried))  # none is tried twice
    assert few != 30 or tried
    assert few == 30 or min(passes) < max(passes)


def row_by_row(model: torch.nn.Module, passes: list[int]) -> Forward:
    """Logits whose bits cannot depend on other rows; notes how many rows asked for a gradient."""

    def forward(z: Tensor) -> Tensor:
        passes.append(len(z) if z.requires_grad else 0)
        return torch.cat([model(row[None]) for row in z])

    return forward


def test_a_batch_gets_smaller_where_no_bit_depends_on_it() -> None:
    model, passes = linear(), []
    on, off = both(row_by_row(model, passes), Climb(kind="log_probability", step_sizes=CONSTANT))
    assert any(a == b < 20 for a, b in itertools.pairwise(passes))  # tried, and stayed with
    assert torch.equal(on.point, off.point)
    assert on.backwards < off.backwards


def test_a_gradient_that_rounds_otherwise_in_a_smaller_batch_is_seen() -> None:
    model, passes = linear(), []
    rows = row_by_row(model, passes)

    def forward(z: Tensor) -> Tensor:
        logits = rows(z)
        if z.requires_grad and len(z) < 40:
            logits.register_hook(lambda seed: seed * (1.0 + 1e-6))
        return logits

    climb = Climb(kind="log_probability", step_sizes=CONSTANT)
    ascend(forward, *problem(8), climb)
    tried = [size for size in passes if size < 40 and size > 0]
    assert tried  # each once, and between them the whole batch
    assert all(passes[at - 1] == 40 for at, size in enumerate(passes) if size in tried)


def test_no_smaller_batch_is_tried_that_would_not_pay() -> None:
    model, passes = linear(), []
    climb = Climb(kind="log_probability", step_sizes=CONSTANT[:6])
    ascend(row_by_row(model, passes), *problem(8), climb)
    full = ascend(row_by_row(model, passes), *problem(8), replace(climb, may_stop=False))
    assert bool((full.steps == 6).all())
    assert sum(passes[: passes.index(0)]) <= full.backwards


def test_a_run_ends_at_the_corner_that_a_linear_model_leads_to() -> None:
    on, off = both(linear(classes=2), Climb(kind="margin", step_sizes=CONSTANT), labels=2)
    assert int(on.steps.max()) <= 4  # two steps to the corner, one more by rounding, one that stays
    assert on.backwards < off.backwards / 2


def test_a_run_that_cycles_between_two_points_ends() -> None:
    """Steps of 0.05 overshoot a ridge between two of them for ever."""

    def ridge(x: Tensor) -> Tensor:
        height = -(x.flatten(1) - 0.5).abs().sum(1, keepdim=True)
        return torch.cat([height, torch.zeros_like(height)], 1)

    x = torch.full((10, 3, 4, 4), 0.48)
    ball = Ball(image=x, radius=RADIUS, bounds=(0.0, 1.0), backend="cpu")
    rows = torch.arange(len(x))
    candidates = Candidates(index=rows, label=torch.zeros_like(rows), point=x)
    climb = Climb(kind="margin", step_sizes=CONSTANT)
    on = ascend(ridge, candidates, ball, climb)
    off = ascend(ridge, candidates, ball, replace(climb, may_stop=False))
    assert set(on.steps.tolist()) <= {2, 3}  # 0.48 + 0.05 - 0.05 may not be 0.48
    assert torch.equal(on.point, off.point)
    assert torch.equal(on.value, off.value)
    momentum = ascend(ridge, candidates, ball, replace(climb, momentum=0.5))
    assert bool((momentum.steps == len(CONSTANT)).all())


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.05])
def test_what_a_run_finds_does_not_depend_on_its_company(tolerance: float) -> None:
    model = convolutional(dtype=torch.float64)
    candidates, ball = problem(6)
    ball = replace(ball, image=ball.image.double())
    candidates = candidates.at(candidates.point.double())
    climb = Climb(kind="log_probability", step_sizes=CONSTANT, tolerance=tolerance)
    together = ascend(model, candidates, ball, climb)
    for rows in (torch.tensor([3]), torch.tensor([29, 7, 7, 0]), torch.arange(11, 24)):
        alone = ascend(model, candidates.rows(rows), ball, climb)
        torch.testing.assert_close(alone.point, together.point[rows], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(alone.value, together.value[rows], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(alone.logits, together.logits[rows], rtol=0.0, atol=1e-10)
        assert torch.equal(alone.steps, together.steps[rows])


def test_the_logits_are_those_of_the_best_point() -> None:
    model = convolutional()
    for climb in (
        Climb(kind="log_probability", step_sizes=CONSTANT, tolerance=0.01),
        Climb(kind="probability", step_sizes=DECAY, momentum=0.5, distance_weight=0.5),
        Climb(kind="margin", step_sizes=DECAY, momentum=0.75, downhill=True),
    ):
        candidates, ball = problem(5)
        found = ascend(model, candidates, ball, climb)
        torch.testing.assert_close(found.logits, model(found.point), rtol=0.0, atol=1e-5)


def test_a_floor_out_of_reach_ends_a_run_at_once_and_one_below_does_not() -> None:
    candidates, ball = problem(4)
    climb = Climb(kind="log_probability", step_sizes=CONSTANT, tolerance=1e-6, momentum=0.5)
    model = linear()
    high = ascend(model, candidates, ball, climb, floor=torch.ones(len(candidates)))
    assert high.steps.tolist() == [1] * len(candidates)
    low = ascend(model, candidates, ball, climb, floor=torch.zeros(len(candidates)))
    free = ascend(model, candidates, ball, climb)
    assert torch.equal(low.steps, free.steps)
    assert torch.equal(low.point, free.point)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.5, 5.0])
def test_no_more_than_the_share_of_the_tolerance_is_left_on_a_linear_model(share: float) -> None:
    candidates, ball = problem(8)
    model = linear()
    climb = Climb(kind="log_probability", step_sizes=(0.01,) * 30, tolerance=0.02, share=share)
    found = ascend(model, candidates, ball, climb)
    best = ascend(model, candidates, ball, replace(climb, tolerance=0.0))
    left = best.value.exp() - found.value.exp()
    assert float(left.max()) <= share * climb.tolerance + 1e-6
    assert float(left.max()) > 0.1 * share * climb.tolerance
    assert bool((found.steps < best.steps).any())


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_a_run_of_another_pace_takes_steps_that_are_longer_or_shorter(tolerance: float) -> None:
    model = convolutional(dtype=torch.float64)
    x = images(4, dtype=torch.float64)
    ball = Ball(image=x, radius=RADIUS, bounds=(0.0, 1.0), backend="cpu")
    climb = Climb(kind="log_probability", step_sizes=DECAY, tolerance=tolerance)
    pace = torch.tensor([0.7, 2.0, 1.0, 3.0], dtype=torch.float64)
    rows = torch.arange(4)
    together = Candidates(index=rows, label=rows, point=x, pace=pace)
    found = ascend(model, together, ball, climb)
    for b in range(4):
        sizes = tuple(float(pace[b]) * size for size in DECAY)
        alone = Candidates(index=rows[b : b + 1], label=rows[b : b + 1], point=x[b : b + 1])
        expected = ascend(model, alone, ball, replace(climb, step_sizes=sizes))
        torch.testing.assert_close(found.point[b], expected.point[0], rtol=0.0, atol=1e-12)
        assert int(found.steps[b]) == int(expected.steps)


@pytest.mark.parametrize("known", [0, 1, 5, 8])
def test_slopes_that_are_known_of_some_are_not_computed_again(known: int) -> None:
    model = convolutional()
    candidates, ball = problem(8, labels=1)
    climb = Climb(kind="log_probability", step_sizes=DECAY)
    expected = ascend(model, candidates, ball, climb)
    first = slope(model, candidates.point, candidates.label, "log_probability", 1.0, "cpu")
    found = ascend(model, candidates, ball, climb, first=first.rows(slice(0, known)))
    torch.testing.assert_close(found.point, expected.point, rtol=0.0, atol=1e-6)
    assert expected.backwards - found.backwards == known
    assert expected.forwards - found.forwards == known
