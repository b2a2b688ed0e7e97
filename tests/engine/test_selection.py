"""Labels and winners: the likeliest, the largest, and the first of equals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcnn_fast.engine.selection import likeliest_labels


def test_all_labels_are_tried_without_a_count() -> None:
    assert likeliest_labels(torch.rand(2, 3), None).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_the_likeliest_labels_come_in_rising_order() -> None:
    logits = torch.tensor([[1.0, 9.0, 3.0, 7.0], [4.0, 3.0, 2.0, 1.0]])
    assert likeliest_labels(logits, 1).tolist() == [[1], [0]]
    assert likeliest_labels(logits, 2).tolist() == [[1, 3], [0, 1]]
    assert likeliest_labels(logits, 4).tolist() == [[0, 1, 2, 3]] * 2


def test_the_lowest_of_equally_likely_labels_is_tried() -> None:
    logits = torch.tensor([[2.0, 5.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0], [0.0, -0.0, 0.0, -0.0]])
    assert likeliest_labels(logits, 2).tolist() == [[0, 1], [0, 1], [0, 1]]


def test_more_labels_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels is 4, expected at most the model's 3 classes"):
        likeliest_labels(torch.rand(2, 3), 4)


def test_no_images_give_no_rows() -> None:
    assert likeliest_labels(torch.rand(0, 3), 2).shape == (0, 2)


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=5, max_size=5), min_size=1, max_size=6),
    st.integers(1, 5),
)
def test_the_chosen_labels_are_those_of_a_sort(rows: list[list[int]], count: int) -> None:
    expected = [sorted(sorted(range(5), key=lambda k: (-row[k], k))[:count]) for row in rows]
    assert likeliest_labels(torch.tensor(rows).float(), count).tolist() == expected
