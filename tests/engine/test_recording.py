"""A BatchNorm layer stays where it is not certain that one layer alone feeds it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from folded_networks import Network, fold, norms_in, trained
from tiny_classifiers import convolutional, images
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from hcnn_fast.engine.folding import fold_batch_norms
from hcnn_fast.engine.model import PreparedModel


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
