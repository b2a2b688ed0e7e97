"""A search computes gradients in the images alone: no kernel of a weight gradient ever runs.

A detector reads every operation that PyTorch dispatches, backward passes included. It knows the
gradients of weights by what is asked of an operation (the output masks of backward operations) and,
for linear layers, by the shape of a product: no batch is as large as the smaller side of a weight,
so that only a weight's gradient can have the shape of a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hcnn_fast as hf

# Their last argument says for which inputs a gradient is asked: (image, weight, bias).
MASKED = (
    "aten::convolution_backward",
    "aten::native_batch_norm_backward",
    "aten::native_layer_norm_backward",
)
IMAGES = 3
CANDIDATES = IMAGES * 2 * 2  # of two labels and two starts
CLASSES = 23
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul")


class WeightGradients(TorchDispatchMode):
    """Collects the operations that compute a gradient of one of these weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        shapes = [tuple(parameter.shape) for parameter in model.parameters()]
        self.shapes = {s for s in shapes if len(s) == 2}
        self.shapes |= {shape[::-1] for shape in self.shapes}
        self.found: list[str] = []
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name
        self.seen.add(name)
        if name in MASKED:
            if any(args[-1][1:]):
                self.found.append(f"{name} with output_mask {args[-1]}")
        elif name in PRODUCTS:
            for tensor in tree_leaves(output):
                shape = tuple(tensor.shape[-2:])
                if shape in self.shapes:
                    self.found.append(f"{name} giving {list(shape)}")
        return output


class Attending(nn.Module):
    """Patches, layer norm, attention and a hidden layer: the parts of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 22, 2, 2)
        self.norm = nn.LayerNorm(22)
        self.attention = nn.MultiheadAttention(22, 2, batch_first=True)
        self.hidden = nn.Linear(22, 37)
        self.output = nn.Linear(37, CLASSES)

    def forward(self, z: Tensor) -> Tensor:
        tokens = self.patches(z).flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        logits: Tensor = self.output(torch.relu(self.hidden(tokens.mean(1))))
        return logits


def residual() -> nn.Module:
    return hf.models.ResNet18(classes=CLASSES, width=3)


def grey() -> nn.Module:
    return hf.models.SmallCNN(classes=CLASSES, widths=(3, 4, 6), hidden=17)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutional": (partial(convolutional, CLASSES), (3, 4, 4)),
    "residual": (residual, (3, 8, 8)),
    "grey": (grey, (1, 28, 28)),
    "attending": (Attending, (3, 4, 4)),
}
CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, steps=3, labels=2, starts=2),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.3, "l2", steps=3, labels=2),
    "ncn": hf.SearchConfig.ncn(0.1, 0.25, steps=3, labels=2),
    "entropy": hf.SearchConfig.entropy(0.1, steps=3),
    "bfloat16": hf.SearchConfig.mcn(0.1, steps=3, labels=2, precision="bfloat16"),
}
every_model = pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)


def prepared(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        x = torch.rand(IMAGES, *shape)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(min(p.shape) > CANDIDATES for p in model.parameters() if p.ndim == 2)
    return model, x


@every_model
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_search_runs_no_kernel_of_a_weight_gradient(
    make: Callable[[], nn.Module], shape: tuple[int, ...], config: hf.SearchConfig
) -> None:
    model, x = prepared(make, shape)
    with WeightGradients(model) as detector:
        result = hf.search(model, x, config)
    assert result.backwards > 0
    assert detector.found == []
    assert detector.seen & {*MASKED, *PRODUCTS}  # it did see the passes


@every_model
def test_a_gradient_through_the_defense_runs_none_either(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, x = prepared(make, shape)
    leaf = x.clone().requires_grad_()
    with WeightGradients(model) as detector:
        logits = hf.Defense(model, CONFIGS["mcn"])(leaf)
        torch.autograd.grad(logits.sum(), leaf)
    assert detector.found == []


@every_model
def test_the_detector_finds_every_weight_gradient_of_a_loop_with_backward(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """What a loop around `loss.backward()` does; each kind of layer must be caught."""
    model, x = prepared(make, shape)
    leaf = x.clone().requires_grad_()
    with WeightGradients(model) as detector:
        torch.log_softmax(model(leaf), 1).sum().backward()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    norms = sum(isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) for module in model.modules())
    matrices = sum(parameter.ndim == 2 for parameter in model.parameters())
    kinds = [name.split()[0] for name in detector.found]
    assert kinds.count("aten::convolution_backward") == convolutions
    assert sum("norm_backward" in kind for kind in kinds) == norms
    assert sum(kind in PRODUCTS for kind in kinds) == matrices
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
def test_a_single_weight_that_asks_for_its_gradient_is_found(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, x = prepared(make, shape)
    weight = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
    leaf = x.clone().requires_grad_()
    with WeightGradients(model) as detector:
        torch.autograd.grad(model(leaf).sum(), (leaf, weight))
    assert len(detector.found) == 1
    with WeightGradients(model) as detector:
        torch.autograd.grad(model(leaf).sum(), leaf)
    assert detector.found == []
