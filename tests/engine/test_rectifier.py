"""ReLU on integers: the bits of torch's ReLU, its gradients, and nothing else changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import model as prepared_models
from hcnn_fast.engine import rectifier
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.rectifier import IntegerRectifier

Rectify = Callable[[Tensor], Tensor]
NEW: dict[str, Rectify] = {
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "functional.relu": nn.functional.relu,
    "nn.ReLU": nn.ReLU(),
    "keyword": lambda x: nn.functional.relu(input=x, inplace=False),
}
IN_PLACE: dict[str, Rectify] = {
    "torch.relu_": torch.relu_,
    "Tensor.relu_": lambda x: x.relu_(),
    "functional.relu_": nn.functional.relu_,
    "nn.ReLU": nn.ReLU(inplace=True),
    "functional.relu": lambda x: nn.functional.relu(x, True),
    "keyword": lambda x: nn.functional.relu(x, inplace=True),
}
WAYS = [(False, name) for name in NEW] + [(True, name) for name in IN_PLACE]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every ReLU that was computed on integers, and whether in place."""
    seen: list[bool] = []
    clamp = rectifier._clamp

    def noting(maps: Tensor, in_place: bool) -> Tensor:
        seen.append(in_place)
        return clamp(maps, in_place)

    monkeypatch.setattr(rectifier, "_clamp", noting)
    return seen


def maps(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).bfloat16()


def every_number() -> Tensor:  # [65536]
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize(("in_place", "name"), WAYS)
def test_every_bfloat16_number_is_rectified_as_torch_does(
    in_place: bool, name: str, taken: list[bool]
) -> None:
    function = (IN_PLACE if in_place else NEW)[name]
    x = every_number()
    expected = torch.relu(x)
    before = x.clone()
    with IntegerRectifier():
        found = function(x)
    assert taken == [in_place]
    assert (found.data_ptr() == x.data_ptr()) == in_place
    if not in_place:
        assert torch.equal(x.view(torch.int16), before.view(torch.int16))
    number = ~before.isnan()
    assert torch.equal(found[number], expected[number])  # where -0 is 0
    kept = before.isnan() & ~before.signbit()
    assert bool(found[kept].isnan().all())
    assert bool((found[before.isnan() & before.signbit()] == 0.0).all())


@pytest.mark.parametrize(("in_place", "name"), WAYS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_those_of_torch_to_the_bit(
    channels_last: bool, in_place: bool, name: str, taken: list[bool]
) -> None:
    function = (IN_PLACE if in_place else NEW)[name]
    x, seed = maps(2, 5, 3, 4), maps(2, 5, 3, 4).flip(0)
    x.view(-1)[::7] = 0.0
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for mode in (contextlib.nullcontext(), IntegerRectifier()):
        leaf = x.clone().requires_grad_()
        with mode:
            output = function(leaf * 1.0)
        (gradient,) = torch.autograd.grad(output, leaf, seed)
        assert output.stride() == x.stride()
        results.append((output.detach(), gradient))
    assert taken == [in_place]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_gradient_can_be_differentiated(taken: list[bool]) -> None:
    def second(mode: Any) -> Tensor:
        leaf = maps(3, 4).requires_grad_()
        with mode:
            value = (torch.relu(leaf.square() - 0.5) * leaf).sum()
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), leaf)[0]

    found, expected = second(IntegerRectifier()), second(contextlib.nullcontext())
    assert taken == [False]
    assert torch.equal(found, expected)
    assert float(expected.abs().amax()) > 0.0


def test_gradients_may_come_in_a_batch() -> None:
    leaf, seeds = maps(4, 5).requires_grad_(), torch.randn(3, 4, 5).bfloat16()
    with IntegerRectifier():
        output = torch.relu(leaf)
    (found,) = torch.autograd.grad(output, leaf, seeds, is_grads_batched=True)
    assert torch.equal(found, torch.where(leaf > 0, seeds, 0.0))


def test_others_are_rectified_as_ever(taken: list[bool]) -> None:
    class Own(torch.Tensor):
        pass

    x = maps(2, 3)
    with IntegerRectifier():
        for other in (x.float(), x.half(), x.double(), x.int(), x.as_subclass(Own)):
            found = torch.relu(other)
            assert type(found) is type(other)
            assert torch.equal(torch.Tensor(found.float()), x.to(other.dtype).clamp_min(0).float())
        found = torch.func.vmap(torch.relu)(x)
        assert torch.equal(found, x.clamp_min(0))
        assert torch.equal(torch.tanh(x), x.tanh())
    assert taken == []


def test_a_leaf_that_asks_for_its_gradient_is_not_overwritten() -> None:
    leaf = maps(2, 3).requires_grad_()
    with IntegerRectifier(), pytest.raises(RuntimeError, match="leaf"):
        torch.relu_(leaf)


@pytest.mark.parametrize(
    ("precision", "native", "rows", "count"),
    [
        ("bfloat16", True, 32, 2),
        ("bfloat16", True, 29, 2),  # filled up to 32
        ("bfloat16", True, 28, 0),
        ("bfloat16", False, 32, 0),
        ("float16", True, 32, 0),
        ("float32", True, 32, 0),
    ],
)
def test_only_bfloat16_passes_of_some_rows_on_processors_with_tiles_are_rectified_so(
    precision: str,
    native: bool,
    rows: int,
    count: int,
    taken: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepared_models, "native_bfloat16", lambda device: native)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(True), nn.Flatten()
    )
    x = images(rows, (3, 8, 8))
    prepared = PreparedModel(network.eval(), precision, x[:1])
    prepared.fast(x.requires_grad_())
    assert len(taken) == count
    prepared.exact(x)
    assert len(taken) == count


def test_a_search_attains_the_same_with_it_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_models, "native_bfloat16", lambda device: True)
    classifier = hf.models.load("fashion-adversarial")
    x = hf.data.load("fashion-mnist-sample", "test").scaled()[:16]
    config = hf.SearchConfig.mcn(0.05, steps=6, precision="bfloat16")
    found = hf.search(classifier, x, config)
    monkeypatch.setattr(rectifier, "suits", lambda maps: False)
    expected = hf.search(classifier, x, config)
    assert torch.equal(found.label, expected.label)
    assert torch.equal(found.point, expected.point)
