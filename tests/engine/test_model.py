"""The prepared model: a frozen view of the caller's, in full or in low precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine.model import PreparedModel, frozen_copy, resolve_precision

CONFIG = hf.SearchConfig.mcn(0.1, steps=2)


def test_a_frozen_copy_shares_the_parameters_and_owns_the_buffers() -> None:
    model = convolutional().train()
    frozen = frozen_copy(model)
    assert frozen is not model
    for mine, theirs in zip(frozen.parameters(), model.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()
        assert not mine.requires_grad
        assert theirs.requires_grad
    for mine, theirs in zip(frozen.buffers(), model.buffers(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr()
        assert torch.equal(mine, theirs)
    assert not any(module.training for module in frozen.modules())
    assert all(module.training for module in model.modules())


def test_a_model_whose_copies_share_its_modules_is_not_changed_through_them() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = convolutional()

        def __deepcopy__(self, memo: dict[int, Any]) -> Sharing:
            twin = Sharing()
            twin.body = self.body
            return twin

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x)
            return logits

    model = Sharing().eval()
    prepared = PreparedModel(model, "float32", images(1))
    assert not prepared.is_copy
    assert prepared.unfolded == "the model cannot be copied"
    assert model.body[0].weight.requires_grad
    assert type(model.body[1]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="share modules"):
        frozen_copy(model.train())
    assert model.body.training


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first.weight
    frozen = frozen_copy(nn.Sequential(first, second))
    assert frozen[0].weight is frozen[1].weight
    assert len(list(frozen.parameters())) == 3


def test_a_search_sees_weights_that_were_changed_in_place() -> None:
    model, x = convolutional(), images()
    before = hf.search(model, x, CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    after = hf.search(model, x, CONFIG)
    assert not torch.equal(after.logits, before.logits)
    torch.testing.assert_close(after.logits, model(after.point).detach(), rtol=1e-4, atol=1e-5)


def test_a_search_sees_buffers_that_were_changed_in_place() -> None:
    model, x = convolutional(), images()
    before = hf.search(model, x, CONFIG)
    model[1].running_mean += 1.0
    after = hf.search(model, x, CONFIG)
    assert not torch.equal(after.logits, before.logits)
    torch.testing.assert_close(after.logits, model(after.point).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
@pytest.mark.parametrize("make", [linear, convolutional])
def test_the_fast_model_is_low_in_precision_and_the_exact_one_is_not(
    make: object, precision: object, dtype: torch.dtype
) -> None:
    model, x = make(), images()
    prepared = PreparedModel(model, precision, x[:1])
    exact, fast = prepared.exact(x), prepared.fast(x)
    assert exact.dtype == torch.float32
    assert fast.dtype == dtype
    torch.testing.assert_close(exact, model(x).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.float(), exact, rtol=5e-2, atol=5e-2)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_fast_model_is_the_exact_one_in_float32() -> None:
    prepared = PreparedModel(convolutional(), "float32", images(1))
    assert torch.equal(prepared.fast(images()), prepared.exact(images()))


def test_a_gradient_in_low_precision_comes_in_the_dtype_of_the_image() -> None:
    prepared = PreparedModel(convolutional(), "bfloat16", images(1))
    leaf = images().requires_grad_()
    (gradient,) = torch.autograd.grad(prepared.fast(leaf).sum(), leaf)
    assert gradient.dtype == torch.float32


def test_layouts_and_folding_are_tried_on_two_images_at_most() -> None:
    seen: list[int] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = convolutional()

        def forward(self, z: Tensor) -> Tensor:
            seen.append(len(z))
            logits: Tensor = self.network(z)
            return logits

    PreparedModel(Watching(), "float32", images(1))
    assert set(seen) == {1, 2}
    seen.clear()
    PreparedModel(Watching(), "float32", images(0))
    assert not seen


def test_auto_precision_is_float32_for_float64_images() -> None:
    assert resolve_precision("auto", images(dtype=torch.float64)) == "float32"
    assert resolve_precision("auto", images()) in ("float32", "bfloat16")
    assert resolve_precision("float16", images()) == "float16"
