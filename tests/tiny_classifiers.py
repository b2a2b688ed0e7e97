"""Classifiers and images small enough for every test, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def images(
    count: int = 4,
    shape: tuple[int, ...] = (3, 4, 4),
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Tensor:  # [count, *shape]
    """Uniform images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(dtype)


def linear(
    shape: tuple[int, ...] = (3, 4, 4),
    classes: int = 5,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> nn.Module:
    """One linear layer, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(int(torch.Size(shape).numel()), classes)
        with torch.no_grad():
            layer.weight *= 4.0
    return nn.Sequential(nn.Flatten(), layer).to(dtype).eval()


def convolutional(
    classes: int = 5,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> nn.Module:
    """Convolution, batch norm with statistics of its own, dropout; for images [3, 4, 4]; eval."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(96, classes),
        )
        network[1].running_mean.normal_(std=0.3)
        network[1].running_var.uniform_(0.5, 1.5)
    return network.to(dtype).eval()


def smooth(classes: int = 5) -> nn.Module:
    """Convolution, softplus and linear layer with frozen weights; for images [3, 8, 8]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(512, classes)
        )
    return network.requires_grad_(False)


def telling_apart(x: Tensor) -> nn.Module:
    """The convolutional classifier with logits of mean 0 over these images: all classes occur."""
    model = convolutional(dtype=x.dtype)
    with torch.no_grad():
        model[5].weight *= 8.0
        model[5].bias -= model(x).mean(0)
    return model


class Counting:
    """A callable that counts its calls and the images in them."""

    def __init__(self, model: object) -> None:
        self.model = model
        self.calls = 0
        self.images = 0

    def __call__(self, x: Tensor) -> object:
        self.calls += 1
        self.images += len(x)
        return self.model(x)
