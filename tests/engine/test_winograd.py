"""3x3 convolutions of prepared models: when they are replaced, and that nothing else changes."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable

import pytest
import torch
from tiny_classifiers import images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine import preparation, winograd
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.preparation import prepared_model
from hcnn_fast.engine.winograd import (
    ROOM,
    Changed,
    WinogradConv2d,
    suits,
    with_winograd_convolutions,
    workspace_shape,
)
from hcnn_fast.models import build

SHAPE = (3, 12, 10)


def network(**first: object) -> nn.Module:
    """A network whose second layer can be replaced, with 5 classes."""
    torch.manual_seed(0)
    settings = {"kernel_size": 3, "padding": 1, **first}
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, **settings),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()


def replaced(model: nn.Module) -> int:
    return sum(isinstance(module, WinogradConv2d) for module in model.modules())


def frozen(model: nn.Module) -> nn.Module:
    """As `PreparedModel` hands it over."""
    return copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)


def slope(model: nn.Module, x: Tensor, direction: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf), leaf, direction)
    return gradient


@pytest.mark.parametrize("padding", [0, 1, 2, (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_and_input_gradients_stay(padding: int | tuple[int, int], bias: bool) -> None:
    model, x = frozen(network(padding=padding, bias=bias)), images(7, SHAPE)
    changed = with_winograd_convolutions(model, x[:1]).model
    assert (replaced(changed), replaced(model)) == (1, 0)
    exact = copy.deepcopy(model).double()
    direction = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(changed(x).double(), exact(x.double()), rtol=0, atol=3e-6)
    torch.testing.assert_close(
        slope(changed, x, direction).double(),
        slope(exact, x.double(), direction.double()),
        rtol=0,
        atol=3e-6,
    )


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 2},
        {"dilation": 2},
        {"kernel_size": 5, "padding": 2},
        {"padding": 3},
        {"padding": (1, 0)},
        {"padding": "same"},
        {"padding_mode": "circular"},
        {"groups": 2},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(other: dict[str, object]) -> None:
    model = frozen(network(**other))
    assert with_winograd_convolutions(model, images(1, SHAPE)) == Changed(model, 0)


def hooked(model: nn.Module) -> nn.Module:
    model[2].register_forward_hook(lambda module, inputs, output: 2.0 * output)
    return model


def normalised(model: nn.Module) -> nn.Module:
    model[2] = nn.utils.parametrizations.weight_norm(model[2])
    return model


def compiled(model: nn.Module) -> nn.Module:
    model[4] = torch.compile(model[4], backend="eager")
    return model


@pytest.mark.parametrize("change", [hooked, normalised, compiled, nn.Module.double])
def test_layers_that_do_more_than_their_class_says_stay_as_they_are(
    change: Callable[[nn.Module], nn.Module],
) -> None:
    model = frozen(change(network()))
    x = images(1, SHAPE).to(next(model.parameters()).dtype)
    assert with_winograd_convolutions(model, x) == Changed(model, 0)


def test_without_an_image_nothing_is_changed() -> None:
    model = frozen(network())
    assert with_winograd_convolutions(model, images(0, SHAPE)) == Changed(model, 0)


def test_a_network_whose_logits_would_change_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = frozen(network())
    right = winograd.transform_weight
    monkeypatch.setattr(winograd, "transform_weight", lambda weight: 1.001 * right(weight))
    assert with_winograd_convolutions(model, images(1, SHAPE)) == Changed(model, 0)


class Steep(nn.Module):
    """Enlarges the rounding of what is before it."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.sin(1e6 * logits)


def test_a_network_that_enlarges_rounding_stays_as_it_is() -> None:
    model = frozen(nn.Sequential(network(), Steep()))
    assert with_winograd_convolutions(model, images(1, SHAPE)) == Changed(model, 0)


def test_layers_are_replaced_in_order_as_far_as_memory_is_meant_for_them() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))]
    model = frozen(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    weights = 2 * 2 * 4 * 36 * 16 * 16  # of two layers, each for two directions
    workspace = 4 * math.prod(workspace_shape(16, 16, tiles=1))
    assert with_winograd_convolutions(model, images(1, SHAPE), weights).layers < 2
    found = with_winograd_convolutions(model, images(1, SHAPE), 2 * weights + workspace)
    changed = found.model
    assert found.layers == 2
    assert [type(layer) is WinogradConv2d for layer in changed] == [0, 1, 1, 0, 0, 0]
    own = {p.data_ptr() for p in changed.parameters()} - {p.data_ptr() for p in model.parameters()}
    sizes = {p.data_ptr(): p.nbytes for p in changed.parameters()}
    assert sum(sizes[place] for place in own) == weights


@pytest.mark.parametrize(
    ("maps", "serves"),
    [
        ((2, 16, 8, 8), True),
        ((2, 16, 7, 7), True),  # 49 of 64
        ((2, 16, 5, 5), False),  # 25 of 64
        ((2, 16, 1, 4), False),
        ((0, 16, 8, 8), True),
    ],
)
def test_maps_that_leave_tiles_empty_are_convolved_as_ever(
    maps: tuple[int, ...], serves: bool
) -> None:
    layer = with_winograd_convolutions(
        frozen(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        ),
        torch.rand(1, 16, 8, 8).to(memory_format=torch.channels_last),
    ).model[0]
    assert isinstance(layer, WinogradConv2d)
    x = torch.rand(maps).to(memory_format=torch.channels_last)
    assert suits(layer, x) == serves
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_maps_of_another_kind_are_convolved_as_ever() -> None:
    changed = with_winograd_convolutions(frozen(network()), images(1, SHAPE)).model
    layer = changed[2]
    x = torch.rand(2, 16, 8, 8)
    assert not suits(layer, x)  # in the order in which another layout would be the user's wish
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(x), expected)
    x = x.to(memory_format=torch.channels_last)
    assert suits(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    one = x[0]
    assert torch.equal(layer(one), nn.functional.conv2d(one, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("size", [5, 12])  # 5x5 fill 25 of 64
def test_layers_whose_maps_never_suit_are_left_as_they_are(size: int) -> None:
    model = frozen(network())
    found = with_winograd_convolutions(model, images(1, (3, size, size)))
    assert found.layers == replaced(found.model) == (0 if size == 5 else 1)


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_a_workspace_grows_with_the_work_and_not_with_idle_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for tiles in (0, 1, 5, 40, 1000, 100_000):
        slots, together, floats = workspace_shape(64, 32, tiles)
        assert 1 <= slots <= threads
        assert slots <= max(1, (tiles + 3) // 4)
        assert together % 12 == 0
        assert slots * together <= 12 * slots + tiles
        assert floats >= 36 * (64 + 32)


def test_a_gradient_can_be_differentiated() -> None:
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Softplus(), nn.Flatten())
    changed = with_winograd_convolutions(
        frozen(model), torch.rand(1, 16, 8, 8).to(memory_format=torch.channels_last)
    ).model
    assert replaced(changed) == 1
    x = torch.rand(2, 16, 8, 8).to(memory_format=torch.channels_last)

    def second(classifier: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(leaf).sum(), leaf, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), leaf)[0]

    expected = second(model)
    torch.testing.assert_close(second(changed), expected, rtol=0, atol=1e-4)
    assert float(expected.abs().amax()) > 0.1


class Bent(nn.Module):
    """The network with weights that depend on the image, equal to its own for a first image."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.network, self.mean = network(), float(first.mean())

    def forward(self, x: Tensor) -> Tensor:  # [B, *image] -> [B, 5]
        weight = self.network[2].weight * (1.0 + (x.mean() - self.mean))
        answer: Tensor = torch.func.functional_call(self.network, {"2.weight": weight}, (x,))
        return answer


def test_weights_that_a_call_brings_are_the_ones_used() -> None:
    x = images(3, SHAPE)
    model = frozen(Bent(x[:1]))
    changed = with_winograd_convolutions(model, x[:1]).model
    torch.testing.assert_close(changed(x[1:]), model(x[1:]), rtol=0, atol=1e-5)


def test_a_layer_under_a_transform_is_convolved_as_ever() -> None:
    model, x = frozen(network()), images(2, SHAPE)
    changed = with_winograd_convolutions(model, x[:1]).model
    assert replaced(changed) == 1

    def total(classifier: nn.Module, image: Tensor) -> Tensor:
        return classifier(image[None]).sum()

    for transform in (torch.func.grad, torch.func.jacrev):
        got, expected = (
            torch.func.vmap(transform(lambda z, m=m: total(m, z)))(x) for m in (changed, model)
        )
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "room", "exact", "fast"),
    [
        ("float32", ROOM, 1, 1),
        ("float32", 0, 0, 0),
        ("bfloat16", ROOM, 1, 0),
        ("bfloat16", 0, 0, 0),
    ],
)
def test_passes_in_float32_have_layers_replaced_where_there_is_room(
    precision: str, room: int, exact: int, fast: int
) -> None:
    prepared = PreparedModel(network(), precision, images(1, SHAPE), room)
    copies = [replaced(copy) for copy in prepared.copies]
    assert copies == ([exact, fast] if prepared.lowered else [exact])
    assert prepared.winograd == fast


def test_a_model_is_prepared_for_the_backend_that_was_chosen() -> None:
    model, x = network(), images(1, SHAPE)
    for backend, count in (("auto", 1), ("reference", 0), ("cpu", 1), ("auto", 1)):
        with prepared_model(model, "float32", x, backend) as prepared:
            assert replaced(prepared.copies) == count
    assert replaced(model) == 0


@pytest.mark.parametrize("problem", ["mcn", "hcnn", "ncn", "entropy"])
def test_a_search_equals_the_reference(problem: str) -> None:
    model, x = network(), images(6, SHAPE)
    config = {
        "mcn": hf.SearchConfig.mcn(0.05, steps=8),
        "hcnn": hf.SearchConfig.hcnn(0.05, 0.5, steps=8),
        "ncn": hf.SearchConfig.ncn(0.05, 0.22, steps=8),
        "entropy": hf.SearchConfig.entropy(0.05, steps=8),
    }[problem]
    got, expected = hf.search(model, x, config), hf.reference.search(model, x, config)
    assert torch.equal(got.label, expected.label)
    torch.testing.assert_close(got.value, expected.value, rtol=0, atol=2e-5)
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=2e-4)


def test_a_search_on_a_residual_network_equals_the_reference() -> None:
    torch.manual_seed(0)
    model = build("resnet18").eval()
    x = images(2, (3, 32, 32))
    config = hf.SearchConfig.mcn(8 / 255, steps=3, labels=3)
    with prepared_model(model, "float32", x[:1]) as prepared:
        assert replaced(prepared.copies) == 13
    got, expected = hf.search(model, x, config), hf.reference.search(model, x, config)
    assert torch.equal(got.label, expected.label)
    torch.testing.assert_close(got.value, expected.value, rtol=0, atol=1e-5)


def test_weights_that_change_are_transformed_again() -> None:
    model, x = network(), images(3, SHAPE)
    config = hf.SearchConfig.mcn(0.05, steps=4)
    before = hf.search(model, x, config)
    with torch.no_grad():
        model[2].weight.mul_(-2.0)
    after = hf.search(model, x, config)
    torch.testing.assert_close(
        after.value, hf.reference.search(model, x, config).value, rtol=0, atol=2e-5
    )
    assert not torch.equal(after.value, before.value)


def test_the_transformed_weights_are_freed_with_the_model() -> None:
    model = network()
    hf.search(model, images(1, SHAPE), hf.SearchConfig.mcn(0.05, steps=1))
    kept = len(preparation._kept)
    del model
    gc.collect()
    assert len(preparation._kept) == kept - 1
