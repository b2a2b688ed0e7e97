"""Attacks that only ask, against a defended classifier as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_classifiers import images, telling_apart
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import (
    AttackResult,
    danskin_pgd,
    long_range,
    nes,
    pgd,
    random_search,
    rays,
    square,
    transfer,
    value_margin,
    worst_case,
)

RADIUS = 0.04


def case(threshold: float | None = None) -> tuple[hf.Defense, Tensor, Tensor]:
    """A defence, images of which some can be lost, and its answers."""
    x = images(12)
    defense = hf.Defense(telling_apart(x), hf.SearchConfig.mcn(0.02, steps=4), threshold)
    return defense, x, defense.predict(x).search.prediction


ATTACKS: dict[str, Callable[[hf.Defense, Tensor, Tensor], AttackResult]] = {
    "square": lambda d, x, y: square(d, x, y, radius=RADIUS, queries=60),
    "square-value": lambda d, x, y: square(
        d, x, y, radius=RADIUS, queries=60, objective=value_margin(d)
    ),
    "nes": lambda d, x, y: nes(d, x, y, radius=RADIUS, steps=15, pairs=8, step_size=0.01),
    "nes-value": lambda d, x, y: nes(
        d, x, y, radius=RADIUS, steps=15, pairs=8, step_size=0.01, objective=value_margin(d)
    ),
    "random": lambda d, x, y: random_search(d, x, y, radius=RADIUS, queries=30),
    "rays": lambda d, x, y: rays(d, x, y, radius=RADIUS, queries=60),
    "transfer": lambda d, x, y: transfer(
        d, x, y, pgd(d.model, x, y, radius=RADIUS, objective="margin").point, radius=RADIUS
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_success_is_a_wrong_answer_of_the_whole_defence(name: str) -> None:
    defense, x, y = case()
    result = ATTACKS[name](defense, x, y)
    answer = defense.predict(result.point)
    assert torch.equal(result.success, answer.label != y)
    assert bool(((result.point - x).abs() <= RADIUS + 1e-6).all())
    torch.testing.assert_close(result.confidence, answer.confidence, rtol=0, atol=1e-5)
    assert 0 < int(result.success.sum())


def test_gradients_through_the_search_are_no_weaker_than_questions() -> None:
    """The sanity check of an evaluation: black-box attacks find nothing that the others miss."""
    defense, x, y = case()
    through = worst_case(
        [
            danskin_pgd(defense, x, y, radius=RADIUS, steps=15, inner_steps=3),
            long_range(defense, x, y, radius=RADIUS, steps=30),
        ]
    )
    asked = worst_case([attack(defense, x, y) for attack in ATTACKS.values()])
    assert 0 < int(asked.success.sum()) < 12
    assert bool((through.success >= asked.success).all())


def test_square_climbs_the_margin_of_values() -> None:
    """The value is that of the defence's own labels: the gap of log odds that they attain."""
    defense, x, y = case()
    result = square(defense, x, y, radius=RADIUS, queries=60, objective=value_margin(defense))
    found = hf.search(defense.model, result.point, defense.config).label_value.double()
    height = found.logit()
    own = height.gather(1, y[:, None])[:, 0]
    margin = height.scatter(1, y[:, None], -torch.inf).amax(1) - own
    torch.testing.assert_close(result.value.double(), margin, rtol=1e-4, atol=1e-4)
    assert bool((result.value > value_margin(defense)(x, y)).all())


def test_the_value_of_hcnn_weighs_the_distance() -> None:
    base, x, y = case()
    config = hf.SearchConfig.hcnn(0.02, 0.2, "l2", steps=10)
    defense = hf.Defense(base.model, config)
    plain = hf.Defense(base.model, hf.SearchConfig.mcn(0.02, steps=10))
    assert bool((value_margin(defense)(x, y) != value_margin(plain)(x, y)).all())
    assert bool((hf.search(base.model, x, config).point != x).flatten(1).any(1).all())
    found = hf.search(defense.model, x, config).label_value.double()
    height = found.logit()
    own = height.gather(1, y[:, None])[:, 0]
    margin = height.scatter(1, y[:, None], -torch.inf).amax(1) - own
    torch.testing.assert_close(value_margin(defense)(x, y).double(), margin, rtol=1e-4, atol=1e-4)


def test_a_label_that_is_not_tried_cannot_win() -> None:
    base, x, y = case()
    config = hf.SearchConfig.mcn(0.02, steps=4, labels=2)
    defense = hf.Defense(base.model, config)
    tried = hf.search(defense.model, x, config).labels
    for label in range(5):
        margin = value_margin(defense)(x, torch.full_like(y, label))
        assert torch.equal(margin == torch.inf, ~(tried == label).any(1))


@pytest.mark.parametrize("goal", ["error", "accepted_error", "rejection"])
def test_the_value_of_a_goal_is_positive_where_the_goal_is_reached(goal: str) -> None:
    defense, x, y = case(0.42)
    point = (x + 0.08 * (images(12, seed=5) - 0.5).sign()).clamp(0.0, 1.0)
    y = y.roll(1)  # right for some images and wrong for others
    answer = defense.predict(point)
    wrong = answer.search.prediction != y
    reached = {
        "error": wrong,
        "accepted_error": wrong & answer.accepted,
        "rejection": ~answer.accepted,
    }[goal]
    value = value_margin(defense, goal)(point, y)  # type: ignore[arg-type]  # a str of these
    assert torch.equal(value > 0, reached)
    assert 0 < int(reached.sum()) < 12


def test_labels_with_rejection_are_attacked_by_rays() -> None:
    defense, x, y = case(0.3)
    result = rays(lambda z: defense.predict(z).label, x, y, radius=RADIUS, queries=60)
    answer = defense.predict(result.point)
    assert torch.equal(result.success, (answer.label != y) & answer.accepted)
    assert 0 < int(result.success.sum())
