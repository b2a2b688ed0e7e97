"""Batches of few sizes: none much larger than what it holds, and rows as they are without."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_classifiers import convolutional, images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine.batch_sizes import filled, filled_size
from hcnn_fast.engine.model import PreparedModel

_seen: list[int] = []  # rows of every pass


class _Noting(nn.Module):
    """A layer whose copies note how many rows pass them."""

    def forward(self, maps: Tensor) -> Tensor:
        _seen.append(len(maps))
        return maps


@pytest.fixture
def seen() -> list[int]:
    _seen.clear()
    return _seen


@given(st.integers(0, 10**6))
def test_filling_adds_less_than_a_quarter(rows: int) -> None:
    size = filled_size(rows)
    assert rows <= size <= rows + rows // 4
    assert filled_size(size) == size


def test_there_are_few_sizes() -> None:
    assert [filled_size(rows) for rows in (1, 7, 8, 9, 16, 17, 31, 33, 63, 65, 129)] == [
        1, 7, 8, 10, 16, 20, 32, 40, 64, 80, 160,
    ]  # fmt: skip
    assert len({filled_size(rows) for rows in range(1, 257)}) == 8 + 5 * 4


@pytest.mark.parametrize("size", [5, 6, 11])
def test_rows_and_their_gradients_are_those_of_a_pass_alone(size: int) -> None:
    model, x = convolutional(dtype=torch.float64), images(5, dtype=torch.float64)
    seed = images(5, (5,), dtype=torch.float64, seed=1)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    logits = [model(leaves[0]), filled(model, leaves[1], size)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0.0, atol=1e-12)
    gradients = [
        torch.autograd.grad(found, leaf, seed)[0]
        for found, leaf in zip(logits, leaves, strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_search_makes_passes_of_these_sizes_alone(
    precision: str, tolerance: float, seen: list[int]
) -> None:
    model, x = nn.Sequential(_Noting(), convolutional()), images(50)
    config = hf.SearchConfig.mcn(
        0.1, steps=12, momentum=0.0, tolerance=tolerance, precision=precision, batch_size=61
    )
    hf.search(model.eval(), x, config)
    assert max(seen) == 64  # what 61 rows are filled up to
    assert all(filled_size(size) == size for size in seen)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_pass_of_a_run_is_larger_than_asked_for(
    precision: str, batch_size: int, seen: list[int]
) -> None:
    model, x = nn.Sequential(_Noting(), convolutional()), images(5)
    config = hf.SearchConfig.mcn(
        0.1, steps=12, tolerance=1e-3, precision=precision, batch_size=batch_size
    )
    hf.search(model, x, config)  # prepares the model, which takes passes of its own
    seen.clear()
    hf.search(model, x, config)
    assert max(seen) <= batch_size


def test_a_model_that_is_not_copied_gets_the_rows_it_is_asked_for(seen: list[int]) -> None:
    layers = nn.Sequential(_Noting(), nn.Flatten())
    prepared = PreparedModel(lambda z: layers(z), "float32", images(1))
    prepared.fast(images(33))
    prepared.exact(images(33))
    assert seen == [33, 33]
