"""Paired differences against the binomial sums that they stand for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hcnn_fast.evaluation import PairedDifference, paired_difference


def test_counts_are_those_of_the_examples_that_differ() -> None:
    first = torch.tensor([True, True, False, False, True, False])
    second = torch.tensor([True, False, True, True, True, False])
    found = paired_difference(first, second)
    assert (found.gained, found.lost, found.total) == (2, 1, 6)
    assert found.difference == pytest.approx(1 / 6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (0, 6), (3, 3), (7, 2)])
def test_p_is_the_share_of_coin_tosses_as_uneven(gained: int, lost: int) -> None:
    differing = gained + lost
    tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=differing)]
    uneven = [t for t in tosses if abs(2 * t - differing) >= abs(gained - lost)]
    expected = len(uneven) / len(tosses)
    assert PairedDifference(gained, lost, 20).p_value == pytest.approx(expected)


def test_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    """Every outcome of 12 examples with its trinomial probability."""
    total = 12
    for gain, loss in ((0.3, 0.1), (0.5, 0.5), (0.05, 0.0), (0.0, 0.0)):
        covered = 0.0
        for gained in range(total + 1):
            for lost in range(total + 1 - gained):
                same = total - gained - lost
                ways = math.comb(total, gained) * math.comb(total - gained, lost)
                chance = ways * gain**gained * loss**lost * (1.0 - gain - loss) ** same
                low, high = PairedDifference(gained, lost, total).interval
                covered += chance * (low <= gain - loss <= high)
        assert 0.95 <= covered <= 1.0 + 1e-9


def test_a_direction_is_claimed_by_chance_at_most_as_often_as_the_level_leaves() -> None:
    """Equally good classifiers that differ on n examples."""
    for differing in range(1, 40):
        claimed = sum(
            math.comb(differing, gained)
            for gained in range(differing + 1)
            if PairedDifference(gained, differing - gained, 100).direction != 0
        )
        assert claimed / 2**differing <= 0.05


@pytest.mark.parametrize(("gained", "lost", "direction"), [(6, 0, 1), (0, 6, -1), (5, 0, 0)])
def test_a_direction_names_the_better_one(gained: int, lost: int, direction: int) -> None:
    assert PairedDifference(gained, lost, 200).direction == direction


def test_equal_answers_leave_room_for_chance() -> None:
    low, high = PairedDifference(0, 0, 32).interval
    assert low == -high
    assert 0.1 < high < 0.2


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="gained is 3 and lost 2"):
        PairedDifference(3, 2, 4)
    with pytest.raises(ValueError, match="total is 0"):
        PairedDifference(0, 0, 0)
    with pytest.raises(ValueError, match=r"the shapes \(2,\) and \(3,\)"):
        paired_difference(torch.zeros(2).bool(), torch.zeros(3).bool())
