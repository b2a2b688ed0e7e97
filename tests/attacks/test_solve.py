"""Which of several runs an image keeps."""

from __future__ import annotations

import pytest
import torch

from hcnn_fast.attacks.solve import Choice, _chosen, _Scored

IMAGE = torch.zeros(1, 1, 1, 2)
NEAR, FAR, OTHER = [0.1, 0.0], [0.3, 0.0], [0.2, 0.0]


def chosen(choice: Choice, points: list[list[float]], rise: list[float], hit: list[bool]) -> int:
    """The attempt that one image keeps of these."""
    scored = _Scored(
        point=torch.tensor(points).view(-1, 1, 1, 2),
        rise=torch.tensor(rise),
        hit=torch.tensor(hit),
        confidence=torch.zeros(len(rise)),
    )
    return int(_chosen(scored, IMAGE, len(rise), choice)[0])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("first_success", 1), ("best_success", 3), ("nearest_success", 1), ("best", 0)],
)
def test_each_choice_keeps_its_own(choice: Choice, expected: int) -> None:
    points = [OTHER, NEAR, [0.25, 0.0], FAR]
    assert chosen(choice, points, [5.0, 1.0, 2.0, 3.0], [False, True, True, True]) == expected


@pytest.mark.parametrize("choice", ["first_success", "best_success", "nearest_success", "best"])
def test_without_a_success_the_largest_value_is_kept(choice: Choice) -> None:
    assert chosen(choice, [NEAR, FAR, OTHER], [1.0, 3.0, 2.0], [False] * 3) == 1


@pytest.mark.parametrize("choice", ["first_success", "best_success", "nearest_success", "best"])
@pytest.mark.parametrize("hit", [True, False])
def test_runs_that_end_at_one_point_are_equals(choice: Choice, hit: bool) -> None:
    rises = [1.0, 1.0 + 2.0**-23, 1.0]  # one value, in rows that round otherwise
    assert chosen(choice, [NEAR] * 3, rises, [hit] * 3) == 0


def test_a_point_that_rounding_makes_a_success_is_not_the_equal_of_one_that_it_does_not() -> None:
    assert chosen("best_success", [NEAR, NEAR], [1.0, 1.0 + 2.0**-23], [False, True]) == 1


def test_other_points_of_equal_value_are_kept_in_order() -> None:
    assert chosen("best", [NEAR, FAR, OTHER], [1.0, 2.0, 2.0], [False] * 3) == 1
