"""The winner over labels and starts: by hand, and by sorting, for every backend."""

from __future__ import annotations

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend
from torch import Tensor

from hcnn_fast import ops

Figures = list[list[list[float]]]  # [n][L][S]


def chosen(
    backend: str, device: torch.device, value: Figures, certainty: Figures | None = None
) -> tuple[list[list[int]], list[int]]:
    """The start chosen for every label [n][L], and the winning label [n]."""
    scores = torch.tensor(value, device=device)
    images, labels, starts = scores.shape
    second = torch.zeros_like(scores) if certainty is None else torch.tensor(certainty).to(scores)
    rows = scores.numel()
    row, winner, _, _ = ops.select(
        torch.arange(float(rows), device=device)[:, None],
        torch.zeros(rows, 3, device=device),
        scores.reshape(-1),
        second.reshape(-1),
        labels=labels,
        starts=starts,
        backend=backend,
    )
    first = torch.arange(images * labels, device=device).view(images, labels) * starts
    return (row - first).tolist(), winner.tolist()


@every_backend
def test_the_largest_value_wins(backend: str, device: torch.device) -> None:
    value = [[[1.0, 3.0], [2.0, 0.0]], [[-4.0, -5.0], [-9.0, -3.0]]]
    assert chosen(backend, device, value) == ([[1, 0], [0, 1]], [0, 1])


@every_backend
def test_equal_values_go_by_certainty_and_then_to_the_first(
    backend: str, device: torch.device
) -> None:
    value = [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    certainty = [[[-3.0, -1.0, -1.0], [-2.0, -2.0, -1.0]]]
    assert chosen(backend, device, value) == ([[0, 0]], [0])
    assert chosen(backend, device, value, certainty) == ([[1, 2]], [0])


@every_backend
def test_zeros_of_both_signs_are_equal(backend: str, device: torch.device) -> None:
    assert chosen(backend, device, [[[-0.0, 0.0], [0.0, -0.0]]]) == ([[0, 0]], [0])


@every_backend
def test_rows_without_a_feasible_value_go_by_certainty(backend: str, device: torch.device) -> None:
    value = [[[-math.inf, -math.inf], [-math.inf, -math.inf]]]
    certainty = [[[-3.0, -2.0], [-1.0, -math.inf]]]
    assert chosen(backend, device, value, certainty) == ([[1, 0]], [1])


@every_backend
def test_one_feasible_value_beats_all_that_are_not(backend: str, device: torch.device) -> None:
    value = [[[-math.inf], [-9.0], [-math.inf]]]
    certainty = [[[5.0], [0.0], [9.0]]]
    assert chosen(backend, device, value, certainty) == ([[0, 0, 0]], [1])


@every_backend
def test_nan_never_beats_a_number(backend: str, device: torch.device) -> None:
    value = [[[math.nan, -5.0], [math.nan, math.nan]]]
    assert chosen(backend, device, value) == ([[1, 0]], [0])


@every_backend
def test_point_and_prediction_are_those_of_the_winner(backend: str, device: torch.device) -> None:
    point = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0)).to(device)
    logits = torch.zeros(6, 4, device=device)
    logits[4] = torch.tensor([1.0, math.nan, 7.0, 7.0])
    logits[1] = torch.tensor([0.0, 9.0, 0.0, 9.0])
    value = torch.tensor([0.0, 5.0, 1.0, 2.0, 8.0, 3.0], device=device)
    row, winner, best, prediction = ops.select(
        point, logits, value, value, labels=3, starts=1, backend=backend
    )
    assert row.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert winner.tolist() == [1, 1]
    assert torch.equal(best, point[[1, 4]])
    assert prediction.tolist() == [1, 2]


@every_backend
@given(
    images=st.integers(0, 4),
    labels=st.integers(1, 70),
    starts=st.integers(1, 5),
    classes=st.integers(1, 300),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_selection_is_that_of_a_sort(
    backend: str,
    device: torch.device,
    images: int,
    labels: int,
    starts: int,
    classes: int,
    dtype: torch.dtype,
    channels_last: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = images * labels * starts
    point_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def few(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).to(point_dtype)

    point = torch.rand(rows, 2, 3, 3, generator=generator, dtype=torch.float64).to(point_dtype)
    if channels_last:
        point = point.contiguous(memory_format=torch.channels_last)
    logits = torch.randint(-9, 9, (rows, classes), generator=generator).to(dtype)
    value, certainty = few(rows), few(rows)
    row, winner, best, prediction = ops.select(
        point.to(device),
        logits.to(device),
        value.to(device),
        certainty.to(device),
        labels=labels,
        starts=starts,
        backend=backend,
    )

    def first(candidates: list[int]) -> int:
        return max(candidates, key=lambda r: (value[r], certainty[r], -r))

    for n in range(images):
        begins = [(n * labels + label) * starts for label in range(labels)]
        expected = [first(list(range(begin, begin + starts))) for begin in begins]
        assert row[n].tolist() == expected
        top = first(expected)
        assert int(winner[n]) == expected.index(top)
        assert torch.equal(best[n].cpu(), point[top])
        assert int(prediction[n]) == int(logits[top].float().argmax())
