"""One-channel convolutions with a cheaper input gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hcnn_fast.engine.layers import GreyConv2d, replace_grey_convolutions
from hcnn_fast.engine.model import PreparedModel

GEOMETRIES = [
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 3), "bias": False},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": 1},
]


def input_gradient(layer: nn.Module, maps: Tensor, direction: Tensor) -> Tensor:
    leaf = maps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(leaf), leaf, direction)
    return gradient


@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_input_gradient_is_that_of_the_convolution(
    geometry: dict[str, int], channels_last: bool, lowered: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 7, **geometry).double().requires_grad_(False)
    if channels_last:
        layer = layer.to(memory_format=torch.channels_last)
    cheaper = copy.deepcopy(layer)
    replace_grey_convolutions(cheaper)
    assert type(cheaper) is GreyConv2d
    if lowered:
        cheaper.lower()  # which is for low precision, and as exact as its dtype
    maps = torch.rand(3, 1, 11, 13, dtype=torch.float64)
    output = layer(maps)
    assert torch.equal(cheaper(maps), output)
    direction = torch.randn_like(output)
    torch.testing.assert_close(
        input_gradient(cheaper, maps, direction), input_gradient(layer, maps, direction)
    )


@pytest.mark.parametrize("lowered", [False, True])
def test_the_input_gradient_keeps_the_dtype_of_the_maps_in_low_precision(lowered: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 7, 3, padding=1).requires_grad_(False)
    cheaper = copy.deepcopy(layer)
    replace_grey_convolutions(cheaper)
    if lowered:
        cheaper.bfloat16().lower()
    maps, direction = torch.rand(2, 1, 9, 9), torch.randn(2, 7, 9, 9)
    exact = input_gradient(layer, maps, direction)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = input_gradient(cheaper, maps, direction.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, exact, rtol=0.05, atol=0.05)


def test_lowered_phases_are_not_used_for_weights_that_a_call_brings() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 7, 3, padding=1).double().requires_grad_(False)
    cheaper = copy.deepcopy(layer)
    replace_grey_convolutions(cheaper)
    cheaper.lower()
    maps, direction = torch.rand(2, 2, 1, 9, 9).double(), torch.randn(2, 7, 9, 9).double()
    other = {"weight": layer.weight.flip(2) * 3.0}
    found, expected = (
        input_gradient(
            lambda z, m=m: torch.func.functional_call(m, other, (z,)), maps[0], direction
        )
        for m in (cheaper, layer)
    )
    torch.testing.assert_close(found, expected)


def test_a_low_precision_model_is_prepared_with_phases() -> None:
    network = nn.Sequential(nn.Conv2d(1, 7, 4, stride=2, padding=1), nn.Flatten()).eval()
    prepared = PreparedModel(network, "bfloat16", torch.rand(1, 1, 8, 8))
    exact, fast = (copy[0] for copy in prepared.copies)
    assert exact.phases is None
    assert fast.phases.dtype == torch.bfloat16
    assert fast.phases.shape == (4, 7, 2, 2)


@pytest.mark.parametrize("lowered", [False, True])
def test_what_only_the_convolution_itself_does_is_left_to_it(lowered: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 7, 3, padding=1).double().requires_grad_(False)
    cheaper = copy.deepcopy(layer)
    replace_grey_convolutions(cheaper)
    if lowered:
        cheaper.lower()
    x = torch.rand(2, 1, 9, 9).double()

    def with_weights_of_the_input(module: nn.Module, z: Tensor) -> Tensor:
        weights = {"weight": layer.weight * z.mean()}
        output: Tensor = torch.func.functional_call(module, weights, (z,))
        return output

    direction = torch.randn(2, 7, 9, 9).double()
    found, expected = (
        input_gradient(lambda z, m=m: with_weights_of_the_input(m, z), x, direction)
        for m in (cheaper, layer)
    )
    torch.testing.assert_close(found, expected)
    single = x[0]
    torch.testing.assert_close(
        input_gradient(cheaper, single, direction[0]), input_gradient(layer, single, direction[0])
    )
    found, expected = (torch.func.vmap(lambda z, m=m: m(z[None])[0])(x) for m in (cheaper, layer))
    torch.testing.assert_close(found, expected)
    none = x[:0]
    assert input_gradient(cheaper, none, direction[:0]).shape == none.shape


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(1, 4, 3, dilation=2),
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.ConvTranspose2d(1, 4, 3),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Module) -> None:
    kind = type(layer)
    replace_grey_convolutions(layer)
    assert type(layer) is kind
