"""Ranks against sorting by hand, the sums of the paper's Table 4, and counts of a table (T-A7)."""

from __future__ import annotations

import pytest
import torch
from attempt_tables import random_table

from hcnn_fast.evaluation import (
    AttemptTable,
    Proportion,
    RecoveryCounts,
    RecoveryTable,
    label_ranks,
    recovery_table,
)


def test_ranks_by_hand() -> None:
    confidence = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.9, 0.6], [0.5, 0.6, 0.7], [0.5, 0.5, 0.5]])
    prediction = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 1], [0, 1, 2]])
    ranks = label_ranks(confidence, prediction, torch.tensor([0, 2, 2, 1]))
    # The third has no point of class 2; in the second and last, the lower label goes first.
    assert ranks.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_ranks_equal_sorting_one_image_at_a_time(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(1, 5, (40, 60), generator=generator) / 4  # [N, L]
    prediction = torch.randint(0, 60, (40, 60), generator=generator)  # [N, L]
    label = torch.randint(0, 60, (40,), generator=generator)  # [N]
    found = label_ranks(confidence, prediction, label)
    for n in range(40):
        order = sorted(range(60), key=lambda point: -float(confidence[n, point]))  # stable
        predicted = [int(prediction[n, point]) for point in order]
        assert int(found[n]) == (
            predicted.index(int(label[n])) + 1 if int(label[n]) in predicted else 0
        )


def test_ranks_refuse_columns_that_do_not_fit() -> None:
    two = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"the shapes \(2, 3\) and \(3, 2\), expected"):
        label_ranks(two, two.T.long(), torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"label has the shape \(3,\), expected \[2\]"):
        label_ranks(two, two.long(), torch.zeros(3).long())
    with pytest.raises(ValueError, match="label_confidence has NaN"):
        label_ranks(two / 0, two.long(), torch.zeros(2).long())
    assert label_ranks(two[:0], two[:0].long(), torch.zeros(0).long()).tolist() == []
    assert label_ranks(two[:, :0], two[:, :0].long(), torch.zeros(2).long()).tolist() == [0, 0]


def test_the_rates_derived_from_the_papers_table_4() -> None:
    small = RecoveryTable(RecoveryCounts(94, 208, 50, 0), RecoveryCounts(8621, 27, 0, 0))
    large = RecoveryTable(RecoveryCounts(114, 260, 66, 29), RecoveryCounts(8511, 20, 0, 0))
    assert (small.label_change.total, small.confidence_reduction.total) == (352, 8648)
    assert (large.label_change.total, large.confidence_reduction.total) == (469, 8531)
    assert small.total == large.total == 9000
    for table, before, after, recovered, broken, two, gain in (
        (small, 96.09, 96.83, 26.7, 0.31, 99.44, 67),
        (large, 94.79, 95.83, 24.3, 0.23, 98.94, 94),
    ):
        assert 100 * table.accuracy_before.value == pytest.approx(before, abs=0.005)
        assert 100 * table.accuracy_after.value == pytest.approx(after, abs=0.005)
        assert 100 * table.recovered.value == pytest.approx(recovered, abs=0.05)
        assert 100 * table.broken.value == pytest.approx(broken, abs=0.005)
        assert 100 * table.within_two.value == pytest.approx(two, abs=0.005)
        assert table.net_gain == gain
        assert table.accuracy_after.count - table.accuracy_before.count == gain
    assert small.within_two == Proportion(8950, 9000)
    assert large.within_two == Proportion(8905, 9000)


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_loop_over_rows(seed: int) -> None:
    table = random_table(seed, examples=40)
    found = recovery_table(table)
    counts = {(right, place): 0 for right in (False, True) for place in range(4)}
    for row in range(len(table)):
        if table.attack[row] != "clean":
            right = int(table.base.prediction[row]) == int(table.label[row])
            counts[right, min(int(table.label_rank[row]), 3)] += 1
    for column, right in ((found.label_change, False), (found.confidence_reduction, True)):
        assert column.first == counts[right, 1]
        assert column.second == counts[right, 2]
        assert column.other == counts[right, 3]
        assert column.missing == counts[right, 0]
    assert found.total == 120
    right_before = sum(counts[True, place] for place in range(4))
    assert found.accuracy_before == Proportion(right_before, 120)
    assert found.accuracy_after == Proportion(counts[False, 1] + counts[True, 1], 120)
    assert found.recovered == Proportion(counts[False, 1], 120 - right_before)
    assert found.broken == Proportion(right_before - counts[True, 1], right_before)
    two = sum(counts[right, place] for right in (False, True) for place in (1, 2))
    assert found.within_two == Proportion(two, 120)
    assert found.to_dict()["net_gain"] == found.net_gain


def test_attempts_without_a_rank_are_refused() -> None:
    table = random_table(0)
    unranked = torch.full_like(table.label_rank, -1)
    with pytest.raises(ValueError, match="label_rank is not measured in 36 attempts"):
        recovery_table(AttemptTable(**(vars(table) | {"label_rank": unranked})))
