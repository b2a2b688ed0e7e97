"""Networks with BatchNorm layers for the tests of folding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.engine.folding import Folded, fold_batch_norms
from hcnn_fast.engine.model import frozen_copy


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
