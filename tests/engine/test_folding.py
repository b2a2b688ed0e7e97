"""BatchNorm layers go into the layers before them, where that changes nothing but rounding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from folded_networks import Network, fold, norms_in, trained
from tiny_classifiers import convolutional, images
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.trial import TOLERANCE
from hcnn_fast.models.resnet import ResNet18
from hcnn_fast.models.wide_resnet import WideResNet


def classifier(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5))


def frozen_norm(channels: int) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    norm: nn.Module = torchvision.ops.FrozenBatchNorm2d(channels)
    return norm


# The layer and the norm, and the shape of an image.
PAIRS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], tuple[int, ...]]] = {
    "conv1d": (lambda: (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 9)),
    "conv2d": (lambda: (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), (3, 7, 6)),
    "conv3d": (lambda: (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 4, 4, 4)),
    "grey": (lambda: (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), (1, 7, 6)),
    "no bias": (lambda: (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (3, 7, 6)),
    "not affine": (lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (3, 7, 6)),
    "grouped": (lambda: (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 7, 6)),
    "circular": (
        lambda: (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4)),
        (3, 7, 6),
    ),
    "linear": (lambda: (nn.Linear(6, 4), nn.BatchNorm1d(4)), (6,)),
    "transposed": (lambda: (nn.ConvTranspose2d(3, 4, 3, 2), nn.BatchNorm2d(4)), (3, 5, 4)),
    "transposed grouped": (
        lambda: (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)),
        (4, 5, 4),
    ),
    "synchronised": (lambda: (nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)), (3, 7, 6)),
    "frozen": (lambda: (nn.Conv2d(3, 4, 3), frozen_norm(4)), (3, 7, 6)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "shape"), PAIRS.values(), ids=PAIRS)
def test_logits_and_gradients_stay_and_the_norm_goes(
    make: Callable[[], tuple[nn.Module, nn.Module]], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    network = classifier(*make()).to(dtype)
    x = images(5, shape, dtype=dtype)
    network(x)
    model = trained(network)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, x[:1])
    assert (folded.folded, folded.unfolded) == (1, None)
    assert norms_in(folded.model) == 0
    assert norms_in(model) == 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    limit = TOLERANCE * torch.finfo(dtype).eps
    leaf, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits, expected = folded.model(leaf), model(twin)
    torch.testing.assert_close(logits, expected, rtol=0, atol=limit)
    (got,) = torch.autograd.grad(logits.log_softmax(1).sum(), leaf)
    (wanted,) = torch.autograd.grad(expected.log_softmax(1).sum(), twin)
    torch.testing.assert_close(got, wanted, rtol=0, atol=10 * limit)


def test_the_new_weights_are_rounded_once() -> None:
    model = trained(nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten()))
    conv, norm = model[0], model[1]
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = norm.weight.double() / deviation
    weight = (conv.weight.double() * gain[:, None, None, None]).float()
    bias = ((conv.bias.double() - norm.running_mean.double()) * gain + norm.bias.double()).float()
    new = fold(model, images(1, (2, 3, 3))).model[0]
    assert torch.equal(new.weight, weight)
    assert torch.equal(new.bias, bias)
    assert not new.weight.requires_grad
    assert not new.bias.requires_grad


def test_what_is_folded_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hcnn_fast"):
        prepared = PreparedModel(convolutional(), "float32", images(1))
        PreparedModel(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), "float32", images(1))
    assert (prepared.folded, prepared.unfolded) == (1, None)
    assert caplog.messages == ["Sequential: 1 of 1 BatchNorm layers folded"]


def test_a_network_that_asks_for_shapes_and_has_hooks_elsewhere_is_folded() -> None:
    seen: list[str] = []
    model = trained(ResNet18(width=4))
    model.stages.register_forward_hook(lambda *_: seen.append("stages"))
    x = images(2, (3, 8, 8))
    prepared = PreparedModel(model, "float32", x[:1])
    assert (prepared.folded, prepared.unfolded) == (20, None)
    seen.clear()
    prepared.exact(x)
    assert seen == ["stages"]
    with pytest.raises(ValueError, match="images has shape"):
        prepared.exact(x[:, :1])


def test_a_pre_activation_network_is_folded_where_a_norm_follows_a_convolution() -> None:
    model = trained(WideResNet(10, (8, 16, 32), units=2))
    x = images(2, (3, 8, 8))
    prepared = PreparedModel(model, "float32", x[:1])
    assert prepared.folded == 7
    assert prepared.unfolded == "6 of 13 do not alone follow a layer that can hold them"
    torch.testing.assert_close(prepared.exact(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_the_low_precision_copy_is_made_of_the_folded_one() -> None:
    prepared = PreparedModel(convolutional(), "bfloat16", images(1))
    assert len(prepared.copies) == 2
    assert all(norms_in(copied) == 0 for copied in prepared.copies)


def test_a_model_that_draws_noise_is_folded_and_its_trials_draw_none() -> None:
    class Noisy(Network):
        def forward(self, x: Tensor) -> Tensor:
            return self.classify(self.norm(self.conv(x + 0.1 * torch.randn_like(x))))

    model = trained(Noisy())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert fold(model, images(1)).folded == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def batch_norm_models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, 2),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Linear(16, 5),
    )
    return {"plain": trained(network), "residual": trained(ResNet18(classes=5, width=4))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_search_of_a_folded_model_equals_the_reference(
    batch_norm_models: dict[str, nn.Module], name: str, dtype: torch.dtype
) -> None:
    model = batch_norm_models[name].to(dtype)
    x = images(12, (3, 8, 8), dtype=dtype)
    assert PreparedModel(model, "float32", x[:1]).folded == (3 if name == "plain" else 20)
    config = hf.SearchConfig.mcn(0.05, steps=5)
    before = copy.deepcopy(model.state_dict())
    fast, slow = hf.search(model, x, config), hf.reference.search(model, x, config)
    difference = (fast.value - slow.value).abs()
    assert float(difference.max()) <= 1e-4
    assert float(difference.median()) <= 1e-5
    assert torch.equal(fast.label, slow.label)
    torch.testing.assert_close(fast.logits, model(fast.point).detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
