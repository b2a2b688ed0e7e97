"""Convolutions as products of patches: torch's own values and gradients, and when they are used."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import im2col as module
from hcnn_fast.engine import model
from hcnn_fast.engine.im2col import Im2colConv2d, im2col, use_im2col
from hcnn_fast.engine.model import PreparedModel

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 2, "bias": False},
    {"kernel_size": 2},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (3, 4), "stride": (2, 3), "padding": (0, 3)},
    {"kernel_size": 5, "stride": 3, "padding": 4},
]


@pytest.fixture(autouse=True)
def small_weights_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_WEIGHTS", 100)
    monkeypatch.setattr(module, "FEW_PIXELS", 120)


def lowered(layer: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A copy that computes by patches; in float64 it is one that has been made of bfloat16."""
    low = copy.deepcopy(layer).requires_grad_(False).bfloat16()
    use_im2col(low)
    return low.to(dtype) if dtype != torch.bfloat16 else low


def input_gradient(layer: nn.Module, maps: Tensor, direction: Tensor) -> Tensor:
    leaf = maps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(leaf), leaf, direction)
    return gradient


def of_few_bits(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights that bfloat16 holds."""
    for parameter in layer.parameters():
        parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    return layer


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_values_and_input_gradients_are_those_of_the_convolution(
    geometry: dict[str, Any], channels_last: bool
) -> None:
    torch.manual_seed(0)
    layer = of_few_bits(nn.Conv2d(6, 20, **geometry).double())
    products = lowered(layer, torch.float64)
    assert isinstance(products, Im2colConv2d)
    maps = torch.rand(3, 6, 9, 8, dtype=torch.float64)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    assert products._suits(maps)
    expected = layer(maps).detach()
    found = products(maps)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        input_gradient(products, maps, direction), input_gradient(layer, maps, direction)
    )


def test_patches_are_those_that_torch_unfolds() -> None:
    maps = torch.rand(2, 3, 6, 5)
    found = im2col(maps, (3, 2), (2, 1), (1, 0), (3, 4))  # [B * 3 * 4, 3 * 2 * I]
    expected = nn.functional.unfold(maps, (3, 2), padding=(1, 0), stride=(2, 1))
    rows = expected.view(2, 3, 3, 2, 12).permute(0, 4, 2, 3, 1).reshape(24, 18)
    assert torch.equal(found, rows)


def test_in_bfloat16_values_and_gradients_are_rounded_once() -> None:
    torch.manual_seed(0)
    layer = of_few_bits(nn.Conv2d(16, 32, 3, padding=1))
    products = lowered(layer)
    assert isinstance(products, Im2colConv2d)
    maps = torch.rand(4, 16, 4, 4).bfloat16()
    exact = layer(maps.float()).detach()
    direction = torch.randn_like(exact).bfloat16()
    gradient = input_gradient(layer, maps.float(), direction.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = products(maps.float())  # a layer in the middle gets what the last one left
        got = input_gradient(products, maps.float(), direction)
    assert found.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    eps = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(found.float(), exact, rtol=eps, atol=eps)
    torch.testing.assert_close(got, gradient, rtol=eps, atol=eps)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 16, 3, dilation=2),
        nn.Conv2d(8, 16, 3, groups=2),
        nn.Conv2d(8, 16, 3, padding="same"),
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 16, 3),
        nn.Conv2d(3, 3, 3),  # 81 weights
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Module) -> None:
    assert type(lowered(layer)) is type(layer)


def test_only_bfloat16_is_computed_so() -> None:
    for dtype in (torch.float16, torch.float32):
        layer = nn.Conv2d(8, 16, 3).to(dtype)
        use_im2col(layer)
        assert type(layer) is nn.Conv2d


def test_a_layer_that_is_watched_stays_as_it_is() -> None:
    layer = nn.Conv2d(8, 16, 3)
    layer.register_forward_hook(lambda *_: None)
    assert type(lowered(layer)) is nn.Conv2d


def test_large_maps_and_other_dtypes_are_convolved_as_ever() -> None:
    products = lowered(nn.Conv2d(8, 16, 3, padding=1))
    assert isinstance(products, Im2colConv2d)
    assert products._suits(torch.rand(1, 8, 10, 12).bfloat16())
    assert not products._suits(torch.rand(1, 8, 11, 11).bfloat16())
    assert not products._suits(torch.rand(1, 8, 10, 10))
    assert not products._suits(torch.rand(8, 10, 10).bfloat16())
    for shape in ((1, 8, 11, 11), (8, 10, 10)):
        maps = torch.rand(shape).bfloat16()
        expected = nn.functional.conv2d(maps, products.weight, products.bias, padding=1)
        assert torch.equal(products(maps), expected)


def test_weights_that_a_call_brings_are_the_ones_used() -> None:
    products = lowered(nn.Conv2d(8, 16, 3, padding=1))
    maps = torch.rand(2, 8, 4, 4).bfloat16()
    other = {"weight": products.weight * 2.0, "bias": products.bias * 0.0}
    found = torch.func.functional_call(products, other, (maps,))
    assert torch.equal(found, nn.functional.conv2d(maps, *other.values(), padding=1))


def test_a_gradient_can_be_differentiated() -> None:
    torch.manual_seed(0)
    layer = of_few_bits(nn.Conv2d(8, 16, 3, padding=1, stride=2).double())
    products = lowered(layer, torch.float64)
    x = torch.rand(2, 8, 5, 5, dtype=torch.float64)

    def second(classifier: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(gradient.pow(3).sum(), leaf)[0]

    torch.testing.assert_close(second(products), second(layer))


def test_a_layer_under_a_transform_is_convolved_as_ever() -> None:
    products = lowered(nn.Conv2d(8, 16, 3, padding=1))
    maps = torch.rand(2, 8, 4, 4).bfloat16()
    found = torch.func.vmap(lambda one: products(one[None])[0])(maps)
    torch.testing.assert_close(found, products(maps), rtol=0.02, atol=0.02)


def test_no_maps_give_no_outputs() -> None:
    products = lowered(nn.Conv2d(8, 16, 3, padding=1, stride=2))
    maps = torch.zeros(0, 8, 5, 4).bfloat16()
    assert products(maps).shape == (0, 16, 3, 2)
    assert input_gradient(products, maps, torch.zeros(0, 16, 3, 2).bfloat16()).shape == maps.shape


def test_gradients_may_come_in_a_batch() -> None:
    products = lowered(of_few_bits(nn.Conv2d(8, 16, 3, padding=1)))
    maps = torch.rand(2, 8, 4, 4).bfloat16().requires_grad_()
    output = products(maps)
    seeds = torch.randn(3, *output.shape).bfloat16()
    (found,) = torch.autograd.grad(output, maps, seeds, is_grads_batched=True, retain_graph=True)
    for seed, gradient in zip(seeds, found, strict=True):
        (expected,) = torch.autograd.grad(output, maps, seed, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.02)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, 8, 8] -> [B, 5]
        maps = torch.relu(self.second(torch.relu(self.first(x))))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


@pytest.mark.parametrize("native", [True, False])
def test_a_low_precision_search_uses_it_where_tiles_are_multiplied(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "native_bfloat16", lambda device: native)
    classifier, x = Network().eval(), images(6, (3, 8, 8))
    prepared = PreparedModel(classifier, "bfloat16", x[:1])
    kinds = [type(layer) for copy in prepared.copies for layer in copy.modules()]
    assert kinds.count(Im2colConv2d) == (2 if native else 0)
    assert not any(isinstance(layer, Im2colConv2d) for layer in prepared.copies[0].modules())
    config = hf.SearchConfig.mcn(0.05, steps=8, precision="bfloat16")
    got = hf.search(classifier, x, config)
    expected = hf.reference.search(classifier, x, config.replace(precision="float32"))
    assert torch.equal(got.label, expected.label)
    torch.testing.assert_close(got.value, expected.value, rtol=0, atol=5e-3)
    assert [type(layer) for layer in classifier.children()] == [nn.Conv2d, nn.Conv2d, nn.Linear]
