"""What every attack without gradients promises, whichever way it asks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import AttackResult, nes, random_search, rays, square

Attack = Callable[..., AttackResult]

ATTACKS: dict[str, Attack] = {
    "square": functools.partial(square, queries=60),
    "uniform": functools.partial(random_search, queries=40),
    "corners": functools.partial(random_search, queries=40, sampling="corners"),
    "nes": functools.partial(nes, steps=6, pairs=4),
    "rays": functools.partial(rays, queries=60),
}
# where each wins some images of the linear model and not all
RADII = {"square": 0.15, "uniform": 0.45, "corners": 0.3, "nes": 2.0, "rays": 0.2}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
SCORED = {name: attack for name, attack in ATTACKS.items() if name != "rays"}
every_scored_attack = pytest.mark.parametrize("attack", SCORED.values(), ids=SCORED)
RESTARTED = {name: ATTACKS[name] for name in ("square", "nes", "rays")}


def row_by_row(model: Any) -> Callable[[Tensor], Tensor]:
    """The same logits for an image in every batch, to the bit."""

    def logits(z: Tensor) -> Tensor:
        return torch.cat([model(row[None]) for row in z])

    return logits


def by_definition(logits: Tensor, y: Tensor, objective: str) -> Tensor:  # [N]
    z = logits.detach().double()
    values = torch.log_softmax(z, 1) if objective == "confidence" else z
    rows = torch.arange(len(y))
    others = torch.stack([values[r][torch.arange(z.shape[1]) != y[r]].max() for r in rows])
    return others if objective == "confidence" else others - values[rows, y]


@every_scored_attack
@pytest.mark.parametrize("objective", ["confidence", "margin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_says_what_the_model_does_at_the_point(
    attack: Attack, objective: str, dtype: torch.dtype
) -> None:
    model, x = convolutional(dtype=dtype), images(20, dtype=dtype)
    y = model(x).argmax(1)
    y[::4] = model(x)[::4].argmin(1)
    result = attack(model, x, y, radius=0.08, objective=objective)
    logits = model(result.point).detach()
    assert result.point.dtype == dtype
    assert not result.point.requires_grad
    assert (result.value.dtype, result.confidence.dtype) == (torch.float32, torch.float32)
    assert (result.success.dtype, result.attempt.dtype) == (torch.bool, torch.int64)
    assert 0 < int(result.success.sum()) < 20
    assert torch.equal(result.success, logits.argmax(1) != y)
    top = (logits.double().exp() / logits.double().exp().sum(1, keepdim=True)).amax(1)
    torch.testing.assert_close(result.confidence.double(), top, rtol=1e-5, atol=1e-6)
    expected = by_definition(logits, y, objective)
    torch.testing.assert_close(result.value.double(), expected, rtol=1e-5, atol=1e-5)
    assert result.gradient_steps == 0


@every_attack
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0), (0.3, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_never_leave_ball_and_bounds(
    attack: Attack, bounds: tuple[float, float], dtype: torch.dtype
) -> None:
    low, high = bounds
    x = low + (high - low) * images(8, dtype=dtype)
    x[0], x[1] = low, high
    result = attack(linear(dtype=dtype), x, torch.arange(8) % 5, radius=0.07, bounds=bounds)
    assert bool((result.point >= (x - 0.07).clamp_min(low)).all())
    assert bool((result.point <= (x + 0.07).clamp_max(high)).all())
    assert attack is ATTACKS["rays"] or not torch.equal(result.point, x)


@every_attack
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.3, 0.5)])
def test_no_question_leaves_the_bounds(attack: Attack, bounds: tuple[float, float]) -> None:
    model, low, high = linear(), *bounds

    def strict(z: Tensor) -> Tensor:
        assert bool(((z >= low) & (z <= high)).all())
        return model(z)

    attack(strict, low + (high - low) * images(6), torch.arange(6) % 5, radius=0.1, bounds=bounds)


@every_attack
@pytest.mark.parametrize("stop_at_success", [False, True])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_queries_are_the_images_that_the_model_saw(
    attack: Attack, stop_at_success: bool, batch_size: int | None
) -> None:
    model = Counting(linear())
    x = images(8)
    y = linear()(x).argmax(1)
    result = attack(
        model, x, y, radius=0.03, stop_at_success=stop_at_success, batch_size=batch_size
    )
    assert result.queries == model.images > 8


@pytest.mark.parametrize(
    ("attack", "each"),
    [
        (functools.partial(square, queries=7), 1 + 7),
        (functools.partial(square, queries=7, starts=3), 1 + 3 * 7),
        (functools.partial(random_search, queries=7), 1 + 7),
        (functools.partial(nes, steps=3, pairs=5, starts=2), 1 + 2 * (1 + 3 * (2 * 5 + 1))),
        (functools.partial(rays, queries=7, starts=2), 1 + 2 * 7 + 1),
    ],
    ids=["square", "square-3", "random", "nes-2", "rays-2"],
)
def test_the_number_of_queries_is_what_was_asked_for(attack: Attack, each: int) -> None:
    result = attack(linear(), images(5), torch.arange(5), radius=0.01)
    assert result.queries == 5 * each


@every_attack
def test_an_image_is_attacked_alike_in_every_batch_to_the_bit(attack: Attack) -> None:
    model = row_by_row(convolutional())
    x = images(6)
    y = torch.arange(6) % 5
    together = attack(model, x, y, radius=0.05)
    order = torch.tensor([4, 0, 2, 1, 5, 3])
    others = [
        (order, attack(model, x[order], y[order], radius=0.05, batch_size=4)),
        *(
            (torch.tensor([r]), attack(model, x[r : r + 1], y[r : r + 1], radius=0.05))
            for r in (0, 5)
        ),
    ]
    for rows, other in others:
        for name in ("point", "value", "success", "confidence", "attempt"):
            assert torch.equal(getattr(other, name), getattr(together, name)[rows]), name


@every_attack
def test_images_that_leave_early_change_nothing_for_the_others(attack: Attack) -> None:
    model = row_by_row(linear())
    radius = RADII[next(name for name in ATTACKS if ATTACKS[name] is attack)]
    x = images(12)
    y = linear()(x).argmax(1)
    y[::3] = (y[::3] + 1) % 5  # wrong from the beginning
    together = attack(model, x, y, radius=radius, stop_at_success=True)
    assert 4 < int(together.success.sum()) < 12
    count = 0
    for row in range(12):
        part = slice(row, row + 1)
        alone = attack(model, x[part], y[part], radius=radius, stop_at_success=True)
        assert torch.equal(alone.point, together.point[part])
        assert torch.equal(alone.value, together.value[part])
        assert torch.equal(alone.success, together.success[part])
        count += alone.queries
    assert count == together.queries
    patient = attack(model, x, y, radius=radius)
    assert torch.equal(patient.success, together.success)
    assert patient.queries > together.queries
    assert torch.equal(together.point[::3], x[::3])


@every_attack
def test_one_seed_gives_one_result_and_the_global_generator_is_left_alone(attack: Attack) -> None:
    model, x, y = convolutional(), images(6), torch.arange(6) % 5
    if attack is ATTACKS["rays"]:  # its first start draws nothing
        attack = functools.partial(attack, starts=2)
    state = torch.random.get_rng_state()
    first, again = (attack(model, x, y, radius=0.05, seed=3) for _ in range(2))
    torch.manual_seed(77)
    moved = torch.random.get_rng_state()
    third = attack(model, x, y, radius=0.05, seed=3)
    assert torch.equal(torch.random.get_rng_state(), moved)
    torch.random.set_rng_state(state)
    other = attack(model, x, y, radius=0.05, seed=4)
    assert torch.equal(first.point, again.point)
    assert torch.equal(first.point, third.point)
    assert not torch.equal(first.point, other.point)


@pytest.mark.parametrize("name", ["square", "uniform", "corners"])
def test_the_best_point_that_was_allowed_and_seen_is_returned(name: str) -> None:
    model = convolutional(dtype=torch.float64)
    x = images(5, dtype=torch.float64)
    y = model(x).argmax(1)
    seen: list[Tensor] = []

    def recording(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return model(z)

    result = ATTACKS[name](recording, x, y, radius=0.08)
    points = torch.cat(seen).view(-1, 5, *x.shape[1:])  # [K, 5, *image]
    for row in range(5):
        z = points[:, row]
        logits = model(z).detach()
        value = by_definition(logits, y[row].expand(len(logits)), "confidence")
        wrong = logits.argmax(1) != y[row]
        best = float((value[wrong] if bool(wrong.any()) else value).max())
        assert bool(result.success[row]) == bool(wrong.any())
        assert float(result.value[row]) == pytest.approx(best, abs=1e-6)


def test_a_success_is_kept_even_where_a_failure_has_the_larger_confidence() -> None:
    # the wrong class is likelier at the left, where the right one is likelier still
    sides = torch.tensor([[0.50, 0.45, 0.05], [0.20, 0.40, 0.40]]).log()

    def two_sides(z: Tensor) -> Tensor:
        return sides[(z[:, 0] > 0.5).long()]

    x, y = torch.full((20, 2), 0.5), torch.zeros(20).long()
    x[:, 1] = torch.linspace(0.1, 0.9, 20)
    for name in ("square", "uniform", "corners"):
        result = ATTACKS[name](two_sides, x, y, radius=0.1)
        assert result.success.all()
        assert bool((result.point[:, 0] > 0.5).all())
        assert result.value.exp().tolist() == pytest.approx([0.4] * 20)


@every_attack
def test_a_model_that_never_changes_its_mind_is_never_beaten(attack: Attack) -> None:
    def constant(z: Tensor) -> Tensor:
        return torch.tensor([[0.0, 4.0, 1.0]]).repeat(len(z), 1)

    right = attack(constant, images(), torch.ones(4).long(), radius=0.1)
    assert not right.success.any()
    assert right.attempt.tolist() == [0] * 4
    wrong = attack(constant, images(), torch.zeros(4).long(), radius=0.1)
    assert wrong.success.all()
    assert torch.equal(wrong.point, images())


@every_attack
def test_models_are_asked_without_gradients_and_in_any_grad_mode(attack: Attack) -> None:
    model = linear()

    def without_gradients(z: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not z.requires_grad
        return torch.from_numpy(model(z).numpy())  # nothing to differentiate

    x, y = images(), torch.arange(4)
    expected = attack(without_gradients, x, y, radius=0.05)
    with torch.inference_mode():
        inside = attack(without_gradients, images(), torch.arange(4), radius=0.05)
    assert torch.equal(inside.point, expected.point)
    x.requires_grad_()
    assert torch.equal(attack(without_gradients, x, y, radius=0.05).point, expected.point)


@every_attack
def test_a_module_is_left_in_its_mode(attack: Attack) -> None:
    model = convolutional().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = images(), torch.arange(4)
    result = attack(model, x, y, radius=0.05)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(result.point, attack(convolutional(), x, y, radius=0.05).point)


@every_attack
def test_an_empty_batch_gives_an_empty_result(attack: Attack) -> None:
    result = attack(linear(), images(0), torch.zeros(0).long(), radius=0.1)
    assert result.point.shape == (0, 3, 4, 4)
    for name in ("value", "success", "confidence", "attempt"):
        assert getattr(result, name).shape == (0,), name
    assert result.queries == 0


@every_attack
def test_a_defense_is_attacked_as_a_whole(attack: Attack) -> None:
    defense = hf.Defense(linear(), hf.SearchConfig.mcn(0.01, steps=2))
    x = images(6)
    y = defense(x).argmax(1)
    result = attack(defense, x, y, radius=0.4)
    assert result.success.any()
    assert torch.equal(result.success, defense(result.point).argmax(1) != y)


@every_attack
@pytest.mark.parametrize("late", [False, True])
def test_logits_that_are_not_finite_are_refused(attack: Attack, late: bool) -> None:
    calls = 0

    def broken(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.full((len(z), 3), torch.nan if calls > 1 or not late else 0.0)

    with pytest.raises(ValueError, match="non-finite logits"):
        attack(broken, images(), torch.zeros(4).long(), radius=0.1)


@every_attack
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": torch.full((4,), 5)}, ValueError, "y has labels"),
        ({"y": torch.full((4,), -1)}, ValueError, "y has labels"),
        ({"y": torch.zeros(4)}, TypeError, "y has dtype"),
        ({"x": images() + 1.0}, ValueError, "x has values"),
        ({"radius": 0.0}, ValueError, "radius"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"stop_at_success": 1}, TypeError, "stop_at_success"),
        ({"backend": "abacus"}, ValueError, "backend"),
        ({"model": "linear"}, TypeError, "model"),
    ],
)
def test_bad_input_is_named(
    attack: Attack, change: dict[str, Any], error: type[Exception], match: str
) -> None:
    arguments = {"model": linear(), "x": images(), "y": torch.zeros(4).long(), "radius": 0.1}
    with pytest.raises(error, match=match):
        attack(**{**arguments, **change})


@every_scored_attack
@pytest.mark.parametrize(
    ("objective", "match"),
    [
        ("likelihood", "objective is 'likelihood'"),
        (None, "objective is None"),
        (lambda z, y: z.sum(), "objective returned"),
        (lambda z, y: 1.0, "objective returned"),
        (lambda z, y: y, "objective returned"),
        (lambda z, y: torch.full_like(y, torch.nan, dtype=torch.float32), "objective returned NaN"),
    ],
)
def test_bad_objectives_are_named(attack: Attack, objective: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        attack(linear(), images(), torch.zeros(4).long(), radius=0.1, objective=objective)


@pytest.mark.parametrize("attack", RESTARTED.values(), ids=RESTARTED)
def test_further_starts_add_to_what_the_first_found(attack: Attack) -> None:
    model, x = convolutional(), images(30)
    y = model(x).argmax(1)
    runs = [attack(model, x, y, radius=0.05, starts=s) for s in (1, 2, 3)]
    for fewer, more in itertools.pairwise(runs):
        assert bool((more.success >= fewer.success).all())
        same = more.success == fewer.success
        assert bool((more.value >= fewer.value)[same].all())
        kept = more.attempt == fewer.attempt
        assert torch.equal(more.point[kept], fewer.point[kept])
    assert set(runs[-1].attempt.tolist()) == {0, 1, 2}


@every_scored_attack
def test_nothing_beats_the_grid_around_a_net_of_two_inputs(attack: Attack) -> None:
    # the largest value on a grid, and what a Lipschitz constant of the logits leaves between
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
        ).double()
        with torch.no_grad():
            net[0].weight *= 6.0
    radius = 0.2
    x = 0.3 + 0.4 * images(5, (2,), dtype=torch.float64)
    y = net(x).argmax(1)
    line = torch.linspace(-radius, radius, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    slope = torch.linalg.matrix_norm(net[2].weight, 2) * torch.linalg.matrix_norm(net[0].weight, 2)
    between = 2.0 * float(slope.detach()) * (radius / 400) * 2**0.5
    effort = {"steps": 60} if attack is ATTACKS["nes"] else {"queries": 800}
    result = attack(net, x, y, radius=radius, **effort)
    for row in range(5):
        logits = net(x[row] + grid).detach()
        value = torch.log_softmax(logits, 1)
        value[:, y[row]] = -torch.inf
        value = value.amax(1)
        wrong = logits.argmax(1) != y[row]
        best = value[wrong].max() if bool(wrong.any()) else value.max()
        assert float(result.value[row]) <= float(best) + between
        if attack is SCORED["uniform"]:
            assert float(result.value[row]) >= float(best) - 0.05
            assert bool(result.success[row]) == bool(wrong.any())


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_may_answer_in_another_precision(attack: Attack, dtype: torch.dtype) -> None:
    model, x = linear(), images(6, dtype=torch.float64)
    y = model(x.float()).argmax(1)
    y[0] = (y[0] + 1) % 5
    result = attack(lambda z: model(z.float()).to(dtype), x, y, radius=0.1)
    verdict = model(result.point.float()).to(dtype).argmax(1)
    assert torch.equal(result.success, verdict != y)
    assert result.value.dtype == result.confidence.dtype == torch.float32
