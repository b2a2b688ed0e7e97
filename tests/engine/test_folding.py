"""BatchNorm layers go into the layers before them, where that changes nothing but rounding."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import hcnn_fast as hf
from hcnn_fast.engine.folding import TOLERANCE, Folded, fold_batch_norms
from hcnn_fast.engine.model import PreparedModel, frozen_copy
from hcnn_fast.models.resnet import ResNet18
from hcnn_fast.models.wide_resnet import WideResNet


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, with norms that are far from doing nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_mean") and module.running_mean is not None:
            module.running_mean.normal_(std=0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(std=0.3, generator=generator)
    return model.eval()


def fold(model: nn.Module, image: Tensor) -> Folded:
    return fold_batch_norms(frozen_copy(model), image, model)


def norms_in(model: nn.Module) -> int:
    return sum("BatchNorm" in type(module).__name__ for module in model.modules())


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


class Network(nn.Module):
    """Convolution, norm, ReLU and linear layer; for images [3, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.output = nn.Linear(96, 5)

    def classify(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(maps).flatten(1))
        return logits

    def forward(self, x: Tensor) -> Any:
        return self.classify(self.norm(self.conv(x)))


class Skipping(Network):
    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.classify(self.norm(maps) + maps)


class Peeking(Network):
    """Reads a part of the maps through a view that was made before the norm."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        part = maps[:, :1]
        return self.classify(self.norm(maps) + part)


class ConvolvingTwice(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.conv(x)) + self.conv(1.0 - x))


class NormalisingTwice(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.norm(self.conv(x))))


class TwoNorms(Network):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.classify(self.norm(maps) - self.other(maps))


class BatchStatistics(Network):
    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        maps = self.norm(self.conv(x))
        self.norm.eval()
        return self.classify(maps)


class Weighing(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.conv(x)) * self.conv.weight.norm())


class Shifting(Network):
    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        return self.classify(maps + self.norm.running_mean[:, None, None])


class Keeping(Network):
    """Remembers its maps, and looks at those of the pass before."""

    maps: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        shift = 0.0 if self.maps is None else 0.0 * self.maps.mean()
        self.maps = self.conv(x)
        return self.classify(self.norm(self.maps)) + shift


class Returning(Network):
    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.classify(self.norm(maps)), maps


class PreActivation(Network):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.conv(torch.relu(self.norm(x))))


class Tied(Network):
    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Conv2d(3, 6, 3, padding=1)
        self.twin.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.conv(x)) + self.twin(x))


class Tokens(Network):
    """The norm after a linear layer counts tokens, not features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.norm(self.conv(x.flatten(1, 2))))


class MixedPrecision(Network):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.classify(self.norm(self.conv(x))).float()


class HalvingConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 0.5 * super().forward(input)


def changed(change: Callable[[Network], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = Network()
        change(network)
        return network

    return make


def hooked(part: str, method: str) -> Callable[[], nn.Module]:
    def hook(*arguments: Any) -> None:
        return None

    return changed(lambda network: getattr(getattr(network, part), method)(hook))


def override(network: Network) -> None:
    plain = network.conv.forward
    # A user's own forward on the instance, which is what the test is about.
    network.conv.forward = lambda maps: 2.0 * plain(maps)  # type: ignore[method-assign]


KEPT: dict[str, Callable[[], nn.Module]] = {
    "its input is read again": Skipping,
    "a view of its input is read": Peeking,
    "the layer is called twice": ConvolvingTwice,
    "the norm is called twice": NormalisingTwice,
    "two norms read it": TwoNorms,
    "statistics of the batch, for a while": BatchStatistics,
    "statistics of the batch": changed(
        lambda network: setattr(network, "norm", nn.BatchNorm2d(6, track_running_stats=False))
    ),
    "the weight is read elsewhere": Weighing,
    "the statistics are read elsewhere": Shifting,
    "its input is kept": Keeping,
    "its input is returned": Returning,
    "the norm comes before": PreActivation,
    "tied weights": Tied,
    "tokens": Tokens,
    "mixed precision": MixedPrecision,
    "bfloat16": lambda: Network().bfloat16(),
    "subclass": changed(lambda n: setattr(n, "conv", HalvingConv(3, 6, 3, padding=1))),
    "overridden method": changed(override),
    "parametrization": changed(lambda network: weight_norm(network.conv)),
    "forward hook": hooked("conv", "register_forward_hook"),
    "forward hook of the norm": hooked("norm", "register_forward_hook"),
    "hook before": hooked("norm", "register_forward_pre_hook"),
    "backward hook": hooked("conv", "register_full_backward_hook"),
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_a_norm_stays_where_it_is_not_certain(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = trained(make())
    dtype = next(model.parameters()).dtype
    x = images(3, dtype=dtype)
    norms = norms_in(model)
    found = fold(model, x[:1])
    assert found.folded == 0
    assert norms_in(found.model) == norms
    expected = f"{norms} of {norms} do not alone follow a layer that can hold them"
    assert found.unfolded == expected
    logits, wanted = found.model(x), model(x)
    if isinstance(logits, tuple):
        logits, wanted = logits[0], wanted[0]
    assert torch.equal(logits, wanted)


class Branching(Network):
    """Its path depends on what `ask` says of the image."""

    def __init__(self, ask: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.classify(self.norm(maps) if self.ask(x) else maps)


class Inspecting(Network):
    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if isinstance(self.norm, nn.BatchNorm2d) else 2.0
        return scale * self.classify(self.norm(self.conv(x)))


class Asking(Network):
    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_mean is not None
        return self.classify(self.norm(self.conv(x)))


UNTRACEABLE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "bool": (lambda: Branching(lambda x: x.mean() > 0.5), "reads values of tensors"),
    "item": (lambda: Branching(lambda x: x.sum().item() > 1), "reads values of tensors"),
    "list": (lambda: Branching(lambda x: x.tolist()[0]), "values of tensors .tolist"),
    "numpy": (lambda: Branching(lambda x: x.numpy().sum() > 1), "values of tensors .numpy"),
    "mask": (lambda: Branching(lambda x: len(x[x > 0.5])), "reads values of tensors"),
    "batch": (lambda: Branching(lambda x: len(x) > 1), "size of the batch"),
    "logits": (Inspecting, "logits change"),
    "error": (Asking, "a trial failed: AttributeError"),
}


@pytest.mark.parametrize(("make", "reason"), UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_an_untraceable_model_works_unfolded_and_says_why(
    make: Callable[[], nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, x = trained(make()), images(3)
    expected = model(x)
    with caplog.at_level(logging.INFO, "hcnn_fast"):
        prepared = PreparedModel(model, "float32", x[:1])
    assert prepared.folded == 0
    (line,) = caplog.messages
    assert prepared.unfolded is not None
    assert line.endswith(f": 0 of 1 BatchNorm layers folded ({prepared.unfolded})")
    assert torch.equal(model(x), expected)
    torch.testing.assert_close(prepared.exact(x), expected, rtol=0, atol=1e-6)
    assert re.search(reason, prepared.unfolded)


def test_without_a_copy_or_an_image_nothing_is_folded() -> None:
    model = convolutional()
    assert fold_batch_norms(model, images(1), model).unfolded == "the model cannot be copied"
    assert fold(model, images(0)).unfolded == "there is no image to try it on"


def test_hooks_on_all_modules_leave_a_model_unfolded() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        found = fold(convolutional(), images(1))
    finally:
        handle.remove()
    assert found.unfolded == "hooks are registered for all modules"


def test_compiled_parts_leave_a_model_unfolded() -> None:
    model = nn.Sequential(torch.compile(convolutional(), backend="eager"))
    assert fold(model, images(1)).unfolded == "parts of the model are compiled"


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
    assert len(prepared.copies()) == 2
    assert all(norms_in(copied) == 0 for copied in prepared.copies())


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
