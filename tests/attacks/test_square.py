"""The Square attack against closed forms, enumerated nets and its own rules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import square
from hcnn_fast.attacks.square import halvings, planes, window_sides

WIDE = (-1.0, 2.0)  # bounds that cut no ball


@pytest.mark.parametrize(
    ("shape", "bounds"),
    [((1, 10, 10), WIDE), ((3, 5, 6), (0.0, 1.0)), ((50,), (0.0, 1.0)), ((7, 9), WIDE)],
)
def test_the_margin_of_a_linear_model_reaches_its_closed_form(
    shape: tuple[int, ...], bounds: tuple[float, float]
) -> None:
    # the best margin is at the corner sign(w): it gains sum |w_i| times the room of each entry
    model, x = linear(shape, 2, dtype=torch.float64), images(8, shape, dtype=torch.float64)
    y = torch.arange(8) % 2
    result = square(model, x, y, radius=0.1, queries=2000, objective="margin", bounds=bounds)
    slope = (model[1].weight[1] - model[1].weight[0]).detach().view(1, *shape)
    slope = torch.where((y == 0).view(-1, *[1] * len(shape)), slope, -slope)
    low, high = (x - 0.1).clamp_min(bounds[0]), (x + 0.1).clamp_max(bounds[1])
    corner = torch.where(slope > 0, high, low)
    logits = model(corner).detach()
    best = logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None])
    torch.testing.assert_close(result.value, best[:, 0].float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(result.point, corner)


def test_the_confidence_of_small_nets_reaches_the_best_corner_of_all() -> None:
    # all 2^8 corners are tried: Square moves among corners, so none can be better
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = torch.nn.Sequential(
                torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
            ).double()
        x, y = images(3, (8,), dtype=torch.float64, seed=seed), torch.tensor([0, 1, 2])
        result = square(net, x, y, radius=0.1, queries=300, starts=3, bounds=WIDE)
        signs = torch.tensor(list(itertools.product([-0.1, 0.1], repeat=8))).double()
        for row in range(3):
            log_odds = torch.log_softmax(net(x[row] + signs), 1).detach()
            log_odds[:, y[row]] = -torch.inf
            best = float(log_odds.max())
            assert float(result.value[row]) == pytest.approx(best, abs=1e-5)


def test_the_share_of_the_window_is_halved_as_the_paper_says() -> None:
    at = [q for q in range(1, 10_000) if halvings(q, 10_000) > halvings(q - 1, 10_000)]
    assert at == [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    # the schedule is stretched to other budgets
    at = [q for q in range(1, 500) if halvings(q, 500) > halvings(q - 1, 500)]
    assert at == [1, 3, 11, 26, 51, 101, 201, 301, 401]


def test_windows_cover_their_share() -> None:
    assert window_sides(0.05, 28, 28) == (6, 6)
    assert window_sides(0.8, 32, 32) == (29, 29)
    assert window_sides(1.0, 4, 16) == (4, 8)
    assert window_sides(0.25, 1, 100) == (1, 25)
    assert window_sides(1e-6, 28, 28) == (1, 1)
    assert planes((3, 4, 5)) == (3, 4, 5)
    assert planes((2, 3, 4, 5)) == (6, 4, 5)
    assert planes((4, 5)) == (1, 4, 5)
    assert planes((7,)) == (1, 1, 7)


class Recording:
    """Keeps every batch that it is asked about."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        self.seen.append(z.clone())
        return self.model(z)


def test_queries_are_stripes_and_then_one_square_at_corners_each() -> None:
    model = Recording(linear((2, 12, 12), 3))
    x = 0.3 + 0.4 * images(5, (2, 12, 12))
    square(
        model,
        x,
        torch.zeros(5).long(),
        radius=0.1,
        queries=200,
        objective="margin",
        window_share=0.05,
    )
    low, high = x - 0.1, x + 0.1
    assert torch.equal(model.seen[0], x)
    stripes = model.seen[1]
    up = stripes == high
    assert bool((up | (stripes == low)).all())
    assert torch.equal(up, up[:, :, :1].expand_as(up))
    assert 0.3 < float(up.double().mean()) < 0.7
    sides = set()
    current = stripes
    value = torch.full((5,), -torch.inf)
    for query, z in enumerate(model.seen[1:]):
        assert bool(((z == high) | (z == low)).all())
        changed = (z != current).any(1)  # [5, 12, 12]
        share = 0.05 / 2 ** halvings(query, 200)
        side = window_sides(share, 12, 12)[0]
        for row in range(5) if query else ():
            where = changed[row].nonzero()
            assert len(where) > 0, "a query for nothing"
            spread = where.amax(0) - where.amin(0) + 1
            assert int(spread.max()) <= side
            sides.add(int(spread.max()))
        logits = model.model(z)
        reached = (logits[:, 1:].amax(1) - logits[:, 0]).detach()
        rises = (reached > value).view(-1, 1, 1, 1)
        current = torch.where(rises, z, current)
        value = torch.maximum(reached, value)
    assert sides == {1, 2}


def test_windows_reach_every_pixel_of_every_channel() -> None:
    model = Recording(linear((2, 5, 7), 3))
    x = torch.full((1, 2, 5, 7), 0.5)
    square(model, x, torch.zeros(1).long(), radius=0.1, queries=600)
    changed = torch.stack([(b != a)[0] for a, b in itertools.pairwise(model.seen[1:])])
    assert bool(changed.any(0).all())


def test_a_value_function_is_the_objective_and_the_model_the_judge() -> None:
    base = linear(classes=3)
    config = hf.SearchConfig.mcn(0.05, steps=3)
    defense = hf.Defense(base, config)

    def value_margin(z: Tensor, y: Tensor) -> Tensor:
        v = hf.search(base, z, config).label_value
        own = v.gather(1, y[:, None])[:, 0]
        return v.scatter(1, y[:, None], -torch.inf).amax(1) - own

    x = images(12)
    y = defense(x).argmax(1)
    result = square(defense, x, y, radius=0.1, queries=60, objective=value_margin)
    assert 0 < int(result.success.sum()) < 12
    assert torch.equal(result.success, defense(result.point).argmax(1) != y)
    torch.testing.assert_close(result.value, value_margin(result.point, y), rtol=0, atol=1e-6)
    # the search's values and the model at its points agree on who won
    assert torch.equal(result.success, result.value > 0)
    assert 12 * 2 * 1 + 12 * 60 < result.queries < 12 * (2 + 2 * 60)


def test_more_queries_and_more_starts_are_never_weaker() -> None:
    model, x = convolutional(), images(30)
    y = model(x).argmax(1)
    runs = [
        square(model, x, y, radius=0.04, queries=200, starts=s, objective="margin")
        for s in (1, 2, 3)
    ]
    for fewer, more in itertools.pairwise(runs):
        assert bool((more.value >= fewer.value).all())
        assert bool((more.success >= fewer.success).all())
        same = more.attempt == fewer.attempt
        assert torch.equal(more.point[same], fewer.point[same])
    assert set(runs[-1].attempt.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("queries", 0, ValueError),
        ("queries", 2.0, TypeError),
        ("window_share", 0.0, ValueError),
        ("window_share", 1.5, ValueError),
        ("window_share", float("nan"), ValueError),
        ("window_share", "half", TypeError),
    ],
)
def test_bad_settings_are_named(keyword: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=keyword):
        square(linear(), images(), torch.zeros(4).long(), radius=0.1, **{keyword: value})
