"""The PGD attack: what its result says is true, and the same in every batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import AttackResult, pgd

OBJECTIVES = ("cross_entropy", "margin", "log_odds", "dlr")
MODELS = {"linear": linear, "convolutional": convolutional}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def attack(model: Any, x: Tensor, y: Tensor, **keywords: Any) -> AttackResult:
    return pgd(model, x, y, **{"radius": 0.05, "steps": 5, "starts": 2, **keywords})


def objective_at(logits: Tensor, y: Tensor, objective: str) -> Tensor:  # [N]
    """What rises, in float64 and by its definition."""
    z = logits.detach().double()
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf)
    if objective == "margin":
        return others.amax(1) - own
    if objective == "dlr":
        first, _, third = z.topk(3).values.T
        return (others.amax(1) - own) / (first - third)
    if objective == "log_odds":
        return torch.logsumexp(others, 1) - own
    return torch.logsumexp(z, 1) - own


@every_model
@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_says_what_the_model_does_at_the_point(
    make: Callable[..., Any], objective: str, dtype: torch.dtype
) -> None:
    model, x = make(dtype=dtype), images(12, dtype=dtype)
    y = model(x).argmax(1)
    result = attack(model, x, y, objective=objective)
    logits = model(result.point)
    assert result.point.dtype == dtype
    assert result.success.dtype == torch.bool
    assert (result.value.dtype, result.confidence.dtype) == (torch.float32, torch.float32)
    assert result.attempt.dtype == torch.int64
    assert 0 < int(result.success.sum()) < 12
    assert torch.equal(result.success, logits.argmax(1) != y)
    torch.testing.assert_close(
        result.confidence, torch.softmax(logits, 1).amax(1).float(), rtol=1e-5, atol=1e-6
    )
    expected = objective_at(logits, y, objective).float()
    torch.testing.assert_close(result.value, expected, rtol=1e-4, atol=1e-5)
    assert result.gradient_steps == 12 * 2 * 5
    assert bool(((result.attempt >= 0) & (result.attempt < 2)).all())
    assert not result.point.requires_grad


@every_objective
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0), (0.3, 0.5)])
@pytest.mark.parametrize("step_size", [None, 10.0])
def test_points_lie_in_the_ball_and_in_the_bounds(
    objective: str, bounds: tuple[float, float], step_size: float | None
) -> None:
    low, high = bounds
    x = low + (high - low) * images(6)
    x[0], x[1] = low, high
    result = attack(
        linear(), x, torch.arange(6) % 5, objective=objective, bounds=bounds, step_size=step_size
    )
    assert bool(((result.point >= low) & (result.point <= high)).all())
    assert float((result.point - x).abs().max()) <= 0.05 + 1e-6


def test_a_linear_model_of_two_classes_is_attacked_at_the_corner() -> None:
    model = linear(classes=2, dtype=torch.float64)
    x, y = images(8, dtype=torch.float64), torch.arange(8) % 2
    result = attack(model, x, y, steps=6, objective="margin")
    toward = (model[1].weight[0] - model[1].weight[1]).sign().view(1, 3, 4, 4)
    toward = torch.where((y == 0).view(-1, 1, 1, 1), -toward, toward)
    corner = torch.minimum(torch.maximum(x + 0.05 * toward, x - 0.05), x + 0.05).clamp(0.0, 1.0)
    torch.testing.assert_close(result.point, corner.detach(), rtol=0.0, atol=1e-12)


@every_objective
def test_a_stronger_attack_is_never_weaker(objective: str) -> None:
    model, x = convolutional(), images(40)
    y = model(x).argmax(1)
    rates = [
        int(attack(model, x, y, objective=objective, radius=r, steps=10).success.sum())
        for r in (1e-4, 0.02, 0.1)
    ]
    assert rates[0] == 0
    assert rates[0] < rates[1] < rates[2]


def test_the_first_restart_that_succeeds_wins_or_else_the_largest_objective() -> None:
    model, x = convolutional(), images(40)
    y = model(x).argmax(1)
    runs = [attack(model, x, y, starts=s, steps=2, radius=0.03) for s in (1, 2, 3, 4)]
    attempts = set()
    for fewer, more in itertools.pairwise(runs):
        newest = int(more.attempt.max())
        kept = fewer.success
        assert bool(more.success[kept].all())
        assert torch.equal(more.attempt[kept], fewer.attempt[kept])
        assert torch.equal(more.point[kept], fewer.point[kept])
        found = more.success & ~kept
        assert bool((more.attempt[found] == newest).all())
        neither = ~more.success
        assert bool((more.value[neither] >= fewer.value[neither]).all())
        same = more.attempt == fewer.attempt
        assert torch.equal(more.point[same], fewer.point[same])
        attempts |= set(more.attempt.tolist())
    assert attempts == {0, 1, 2, 3}


def test_a_restart_that_succeeds_beats_one_of_larger_objective() -> None:
    # flat on both sides of 1/2: left the right class is merely unlikely, right it has lost
    sides = torch.tensor([[0.36, 0.32, 0.32], [0.45, 0.54, 0.01]]).log()

    def two_sides(z: Tensor) -> Tensor:
        return sides[(z[:, 0] > 0.5).long()] + 0.0 * z[:, :1]

    x, y = torch.full((50, 2), 0.5), torch.zeros(50).long()
    x[:, 1] = torch.linspace(0.1, 0.9, 50)
    result = attack(two_sides, x, y, starts=3, steps=1)
    assert 35 < int(result.success.sum()) < 50  # 7 of 8 images have a start on the right
    assert torch.equal(result.success, result.point[:, 0] > 0.5)
    assert set(result.attempt[result.success].tolist()) == {0, 1, 2}
    assert result.attempt[~result.success].tolist() == [0] * int((~result.success).sum())


def test_the_best_point_of_a_run_is_kept() -> None:
    # steps longer than the ball jump from corner to corner: the last point is not the best
    model, x = convolutional(), images(20)
    y = model(x).argmax(1)
    for steps in (1, 2, 3, 4):
        short = attack(model, x, y, starts=1, steps=steps, step_size=0.1)
        long = attack(model, x, y, starts=1, steps=steps + 1, step_size=0.1)
        assert bool((long.value >= short.value - 1e-6).all())


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    model, x, y = convolutional(), images(6), torch.arange(6) % 5
    first, again = (attack(model, x, y, steps=1, seed=3) for _ in range(2))
    other = attack(model, x, y, steps=1, seed=4)
    assert torch.equal(first.point, again.point)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.point, other.point)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_an_image_is_attacked_alike_in_every_batch(batch_size: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(7, dtype=torch.float64)
    y = torch.arange(7) % 5
    together = attack(model, x, y)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    shuffled = attack(model, x[order], y[order], batch_size=batch_size)
    torch.testing.assert_close(shuffled.point, together.point[order], rtol=0.0, atol=1e-12)
    assert torch.equal(shuffled.success, together.success[order])
    assert torch.equal(shuffled.attempt, together.attempt[order])
    for row in range(7):
        alone = attack(model, x[row : row + 1], y[row : row + 1])
        torch.testing.assert_close(alone.point[0], together.point[row], rtol=0.0, atol=1e-12)


@every_objective
def test_a_model_that_never_changes_its_mind_is_never_beaten(objective: str) -> None:
    def constant(z: Tensor) -> Tensor:
        return 0.0 * z.flatten(1)[:, :3] + torch.tensor([0.0, 4.0, 1.0])

    right = attack(constant, images(), torch.ones(4).long(), objective=objective)
    assert not right.success.any()
    assert right.attempt.tolist() == [0] * 4  # all equal: the first
    wrong = attack(constant, images(), torch.zeros(4).long(), objective=objective)
    assert wrong.success.all()


def test_an_image_that_the_model_gets_wrong_counts_as_a_success() -> None:
    model, x = linear(), images(6)
    wrong = model(x).argmin(1)
    assert attack(model, x, wrong, radius=1e-6).success.all()


def test_restarts_begin_at_random_points_of_the_ball() -> None:
    # a gradient of zero everywhere leaves the starts as they are
    def flat(z: Tensor) -> Tensor:
        return 0.0 * z.flatten(1)[:, :2]

    x = torch.full((1, 5000), 0.5)
    result = attack(flat, x, torch.zeros(1).long(), starts=1)
    away = (result.point - x).abs() / 0.05
    assert float(away.max()) <= 1.0 + 1e-5
    assert float(away.mean()) == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(attack(flat, x, torch.zeros(1).long(), seed=1).point, result.point)


def test_passes_are_what_steps_and_starts_ask_for() -> None:
    model = Counting(linear())
    attack(model, images(), torch.arange(4), steps=3, starts=2, batch_size=100)
    # one for the number of classes, 3 + 1 of the climb and 1 to score, for 4 images and 2 starts
    assert model.images == 1 + 4 * 2 * (3 + 1 + 1)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_success_in_low_precision_is_judged_in_float32(precision: Any) -> None:
    model, x = convolutional(), images(20)
    y = model(x).argmax(1)
    result = attack(model, x, y, precision=precision)
    assert torch.equal(result.success, model(result.point).argmax(1) != y)
    assert float((result.point - x).abs().max()) <= 0.05 + 1e-6
    exact = attack(model, x, y)
    assert abs(int(result.success.sum()) - int(exact.success.sum())) <= 2


def test_classes_of_any_integer_type_are_taken() -> None:
    model, x = linear(), images()
    expected = attack(model, x, torch.arange(4))
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(attack(model, x, torch.arange(4, dtype=dtype)).point, expected.point)


def test_an_empty_batch_gives_an_empty_result() -> None:
    result = attack(linear(), images(0), torch.zeros(0).long())
    assert result.point.shape == (0, 3, 4, 4)
    for name in ("value", "success", "confidence", "attempt"):
        assert getattr(result, name).shape == (0,), name
    assert result.gradient_steps == 0


def test_a_defense_can_be_attacked_as_a_whole() -> None:
    defense = hf.Defense(linear(), hf.SearchConfig.mcn(0.01, steps=2))
    x = images()
    y = defense(x).argmax(1)
    result = attack(defense, x, y, radius=0.1, steps=3, starts=1)
    assert torch.equal(result.success, defense(result.point).argmax(1) != y)
