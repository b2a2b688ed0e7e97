"""Several runs of the same candidates: the highest of each, and the second."""

from __future__ import annotations

import math

import torch

from hcnn_fast.engine.climb import Ascent


def runs() -> Ascent:
    """Three runs of two candidates, run by run; a point says which it is."""
    value = torch.tensor([-3.0, -1.0, -2.0, -5.0, -1.0, -4.0])
    return Ascent(
        point=torch.arange(6.0)[:, None],
        value=value,
        logits=10.0 + torch.arange(6.0)[:, None],
        steps=torch.tensor([1, 2, 3, 4, 5, 6]),
        forwards=7,
        backwards=6,
    )


def test_the_highest_come_first_and_no_step_is_lost() -> None:
    found = runs().highest(2, 3)
    assert found.point.flatten().tolist() == [4.0, 1.0, 2.0, 5.0]
    assert found.value.tolist() == [-1.0, -1.0, -2.0, -4.0]
    assert found.logits.flatten().tolist() == [14.0, 11.0, 12.0, 15.0]
    assert found.steps.tolist() == [9, 12, 0, 0]
    assert (found.forwards, found.backwards) == (7, 6)


def test_the_best_and_the_second_value_of_each() -> None:
    best, second = runs().best_of(3)
    assert best.point.flatten().tolist() == [4.0, 1.0]
    assert best.steps.tolist() == [9, 12]
    assert second.tolist() == [-2.0, -4.0]


def test_one_run_alone_has_no_second() -> None:
    best, second = runs().best_of(1)
    assert torch.equal(best.value, runs().value)
    assert torch.equal(best.steps, runs().steps)
    assert second.tolist() == [-math.inf] * 6
