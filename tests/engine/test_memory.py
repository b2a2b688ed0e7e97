"""Batches: nothing left out, nothing done twice, halved where memory fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import memory
from hcnn_fast.engine.batch_sizes import filled_size
from hcnn_fast.engine.memory import (
    activation_bytes,
    in_batches,
    is_out_of_memory,
    plan_batch_size,
)

OUT_OF_MEMORY: dict[str, BaseException] = {
    "torch": torch.OutOfMemoryError("CUDA out of memory."),
    "python": MemoryError(),
    "cpu-allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "posix": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    "c++": RuntimeError("std::bad_alloc"),
}


@given(st.integers(0, 200), st.integers(1, 50), st.integers(1, 60))
def test_every_candidate_is_run_once_in_order(total: int, size: int, capacity: int) -> None:
    done: list[int] = []

    def run(begin: int, end: int) -> None:
        assert 0 <= begin < end <= total
        if end - begin > capacity:
            raise torch.OutOfMemoryError
        done.extend(range(begin, end))

    used = in_batches(total, size, run)
    assert done == list(range(total))
    assert used <= size
    if total and size <= capacity:
        assert used == size


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved(error: BaseException) -> None:
    assert is_out_of_memory(error)
    sizes: list[int] = []

    def run(begin: int, end: int) -> None:
        sizes.append(end - begin)
        if end - begin > 5:
            raise error

    assert in_batches(12, 20, run) == 3
    assert sizes == [12, 6, 3, 3, 3, 3]


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_one_candidate_that_does_not_fit_is_an_error_with_its_cause(error: BaseException) -> None:
    def run(begin: int, end: int) -> None:
        raise error

    with pytest.raises(RuntimeError, match="out of memory with a single candidate") as caught:
        in_batches(8, 8, run)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("memory"), KeyError()]
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    calls: list[int] = []

    def run(begin: int, end: int) -> None:
        calls.append(begin)
        raise error

    with pytest.raises(type(error)):
        in_batches(8, 8, run)
    assert calls == [0]
    assert not is_out_of_memory(error)


def short_of_memory(model: nn.Module, capacity: int) -> Callable[[Tensor], Tensor]:
    """The model on a machine that holds `capacity` images at once."""

    def forward(x: Tensor) -> Tensor:
        if len(x) > capacity:
            raise MemoryError
        logits: Tensor = model(x)
        return logits

    return forward


@pytest.mark.parametrize("capacity", [1, 3, 7])
@pytest.mark.parametrize(
    "config",
    [
        hf.SearchConfig.mcn(0.1, steps=2, starts=2, keep_points=True),
        hf.SearchConfig.ncn(0.1, 0.3, steps=2),
    ],
    ids=["mcn", "ncn"],
)
def test_a_search_goes_on_in_smaller_batches(config: hf.SearchConfig, capacity: int) -> None:
    model, x = linear(), images(5)
    expected = hf.search(model, x, config)
    result = hf.search(short_of_memory(model, capacity), x, config.replace(batch_size=64))
    assert torch.equal(result.label, expected.label)
    torch.testing.assert_close(result.point, expected.point, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(result.label_value, expected.label_value, rtol=1e-5, atol=1e-6)


def test_an_attack_goes_on_in_smaller_batches() -> None:
    model, x, y = linear(), images(5), torch.arange(5)
    expected = hf.attacks.pgd(model, x, y, radius=0.1, steps=2, starts=3)
    small = short_of_memory(model, 2)
    result = hf.attacks.pgd(small, x, y, radius=0.1, steps=2, starts=3, batch_size=64)
    torch.testing.assert_close(result.point, expected.point, rtol=0.0, atol=1e-6)
    assert torch.equal(result.success, expected.success)


def test_a_search_without_memory_for_one_candidate_says_so() -> None:
    with pytest.raises(RuntimeError, match="out of memory with a single candidate"):
        hf.search(short_of_memory(linear(), 0), images(), hf.SearchConfig.mcn(0.1, batch_size=4))


def test_the_plan_takes_fewer_images_where_layers_are_larger() -> None:
    plans = [
        plan_batch_size(nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.Tanh()), images(1))
        for width in (8, 4000, 400_000)
    ]
    assert plans == sorted(plans, reverse=True)
    assert plans[0] > plans[-1]
    assert all(1 <= plan <= memory.LARGEST_BATCH for plan in plans)


def test_the_plan_does_not_count_the_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3000), nn.Tanh(), nn.Linear(3000, 2))
    model.requires_grad_(False)
    assert max(activation_bytes(model, images(1))) == 4 * 3000  # of 576,000 bytes of weights
    fitting = memory.CPU_LAYER_BYTES // (4 * 3000)
    assert plan_batch_size(model, images(1)) == filled_size(fitting)


def test_planning_leaves_no_gradient_behind() -> None:
    model, x = convolutional().requires_grad_(True), images(2)
    plan_batch_size(model, x)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


def test_a_model_that_saves_nothing_can_be_planned() -> None:
    assert 1 <= plan_batch_size(lambda z: z.flatten(1).sum(1, keepdim=True), images(1))
