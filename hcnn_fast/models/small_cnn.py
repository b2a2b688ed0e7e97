"""A small convolutional classifier for 28x28 grey images: the model of the demo and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three convolutions and two linear layers; no batch statistics, no dropout.

    The first layer reads 4x4 patches with stride 2, so that no feature map is kept at the full
    resolution: reading and writing it would cost more than the arithmetic. The last one's maps are
    read pixel by pixel, as channels-last convolutions leave them. A forward pass of the default
    takes 5.0 million multiplications, and there are 495,018 parameters.

    Args:
        classes: number of classes C.
        widths: channels of the three convolutions, at 14x14, 7x7 and 7x7 pixels.
        hidden: units of the hidden linear layer.
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, int, int] = (32, 64, 128),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.first = nn.Conv2d(1, first, 4, stride=2, padding=1)
        self.second = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.third = nn.Conv2d(second, third, 3, padding=1)
        self.hidden = nn.Linear(third * 7 * 7, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(
        self,
        images: Tensor,  # [N, 1, 28, 28] in [0, 1]
    ) -> Tensor:  # [N, C] logits
        """Logits of grey images with pixels in [0, 1]."""
        features = torch.relu_(self.first(images))  # [N, 32, 14, 14]
        features = torch.relu_(self.second(features))  # [N, 64, 7, 7]
        features = torch.relu_(self.third(features))  # [N, 128, 7, 7]
        hidden = features.permute(0, 2, 3, 1).flatten(1)  # [N, 6272], a view if channels-last
        hidden = torch.relu_(self.hidden(hidden))  # [N, 64]
        logits: Tensor = self.output(hidden)
        return logits
