"""long_range where the search itself reaches the wrong class, and by the defence's verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import convolutional, images, telling_apart
from torch import Tensor

import hcnn_fast as hf
from hcnn_fast.attacks import danskin_pgd, long_range, pgd

REACH, RADIUS = 0.06, 0.05


def beacon(z: Tensor) -> Tensor:  # [B, 2] -> [B, 3]
    """Class 1 is sure near (0.5, 0.5), a cone whose slope leads there; class 0 is never so sure."""
    away = (z - 0.5).abs().amax(1)
    return torch.stack([torch.full_like(away, 2.0), 8.0 - 100.0 * away, torch.ones_like(away)], 1)


def test_the_search_is_led_to_what_lies_beyond_the_attack() -> None:
    """F_w(z_w) > v_y(x') breaks the defence, where the base holds (spec A.10)."""
    far = torch.linspace(0.08, 0.2, 25, dtype=torch.float64)  # from the beacon, in l_inf
    x, y = 0.5 + torch.stack([far, -0.3 * far], 1), torch.zeros(25).long()
    defense = hf.Defense(beacon, hf.SearchConfig.mcn(REACH, steps=20))
    near = far - RADIUS  # least distance from the beacon that the attack comes to
    base_falls = 8.0 - 100.0 * near > 2.0
    own = 2.0 - torch.logaddexp(torch.ones(()), 8.0 - 100.0 * (near + REACH))  # logit v_y there
    wrong = 8.0 - 100.0 * (near - REACH).clamp_min(0.0) - np.logaddexp(2.0, 1.0)  # logit v_w
    static = pgd(beacon, x, y, radius=RADIUS, objective="margin", starts=5)
    assert not bool((static.success & ~base_falls).any())
    result = long_range(defense, x, y, radius=RADIUS)
    assert torch.equal(result.success, wrong > own)
    assert int((result.success & ~base_falls).sum()) >= 5
    assert int((~result.success).sum()) >= 5
    assert torch.equal(defense.predict(result.point).label != y, result.success)


def test_the_submitted_point_has_the_far_one_in_the_reach_of_the_search() -> None:
    x = torch.tensor([[0.41, 0.57], [0.6, 0.5]], dtype=torch.float64)
    defense = hf.Defense(beacon, hf.SearchConfig.mcn(REACH, steps=20))
    result = long_range(defense, x, torch.zeros(2).long(), radius=RADIUS, steps=300, starts=1)
    # the far point is the beacon, to the length of the last steps
    expected = x + (0.5 - x).clamp(-RADIUS, RADIUS)
    torch.testing.assert_close(result.point, expected, rtol=0, atol=2e-3)
    assert result.gradient_steps == 2 * 2 * 300  # images, wrong labels, steps
    assert result.queries == 2 * 2


def test_success_is_the_verdict_of_the_defence() -> None:
    x = images(16)
    model = telling_apart(x)
    for threshold, goal in ((None, "accepted_error"), (0.33, "accepted_error"), (0.33, "error")):
        defense = hf.Defense(model, hf.SearchConfig.mcn(0.01, steps=10), threshold)
        y = defense.predict(x).search.prediction
        result = long_range(defense, x, y, radius=0.03, steps=20, goal=goal)
        answer = defense.predict(result.point)
        wrong = answer.search.prediction != y
        expected = wrong if goal == "error" else wrong & answer.accepted
        assert torch.equal(result.success, expected)
        assert 0 < int(result.success.sum())
        assert bool(((result.point - x).abs() <= 0.03 + 1e-7).all())
        assert bool(((result.point >= 0.0) & (result.point <= 1.0)).all())
        torch.testing.assert_close(result.confidence, answer.confidence, rtol=0, atol=1e-6)


def test_few_targets_are_the_likeliest() -> None:
    model, x = convolutional(), images(8)
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.02, steps=5))
    y = torch.arange(8) % 5
    every = long_range(defense, x, y, radius=0.05, steps=5)
    few = long_range(defense, x, y, radius=0.05, steps=5, targets=1)
    assert few.gradient_steps * 4 == every.gradient_steps
    assert bool((every.success >= few.success).all())
    assert set(few.attempt.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"goal": "rejection"}, ValueError, "goal is 'rejection'"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"step_size": -1.0}, ValueError, "step_size is -1.0"),
        ({"starts": 0}, ValueError, "starts is 0"),
    ],
)
def test_unusable_settings_are_refused(
    keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    defense = hf.Defense(convolutional(), hf.SearchConfig.mcn(0.02), threshold=0.5)
    with pytest.raises(error, match=message):
        long_range(defense, images(4), torch.arange(4), **{"radius": 0.1, **keywords})


def test_danskin_finds_the_beacon_too() -> None:
    x = torch.tensor([[0.6, 0.5]], dtype=torch.float64)
    defense = hf.Defense(beacon, hf.SearchConfig.mcn(REACH, steps=20))
    assert bool(danskin_pgd(defense, x, torch.zeros(1).long(), radius=RADIUS).success)
