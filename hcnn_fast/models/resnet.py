"""Residual networks for 32x32 colour images (He et al. 2016, with a 3x3 stem)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_DEVIATION = (0.2470, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, projected by 1x1 where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(
        self,
        features: Tensor,  # [N, channels_in, H, W]
    ) -> Tensor:  # [N, channels_out, H / stride, W / stride]
        """relu(shortcut(x) + residual(x))."""
        residual = torch.relu(self.first_norm(self.first(features)))
        residual = self.second_norm(self.second(residual))
        return torch.relu(residual + self.shortcut(features))


class ResNet(nn.Module):
    """Stages of basic blocks, each after the first at half the resolution; mean, linear layer.

    Inputs lie in [0, 1] and are normalised inside.

    Args:
        channels: channels of each stage.
        blocks: basic blocks of each stage.
        stem_stride: stride of the 3x3 convolution before the first stage.
        classes: number of classes C.
        mean: per-channel mean that is subtracted, in units of the input.
        deviation: per-channel standard deviation that is divided by.
    """

    mean: Tensor  # [3, 1, 1]
    deviation: Tensor  # [3, 1, 1]

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks: int,
        stem_stride: int = 1,
        classes: int = 10,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        deviation: tuple[float, float, float] = CIFAR10_DEVIATION,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, channels[0], 3, stem_stride, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        stages = []
        before = channels[0]
        for stage, out in enumerate(channels):
            first = BasicBlock(before, out, 2 if stage else 1)
            stages.append(
                nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(blocks - 1)))
            )
            before = out
        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(before, classes)

    def forward(
        self,
        images: Tensor,  # [N, 3, H, W] in [0, 1]
    ) -> Tensor:  # [N, C] logits
        """Logits of colour images with values in [0, 1]."""
        if images.shape[1] != len(self.mean):  # one channel would silently be repeated
            raise ValueError(f"images has shape {list(images.shape)}, expected [N, 3, H, W]")
        features = (images - self.mean) / self.deviation
        features = torch.relu(self.stem_norm(self.stem(features)))  # [N, width, H', W']
        features = self.stages(features)  # [N, channels, H'', W'']
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits


class ResNet18(ResNet):
    """Eight basic blocks in four stages: 11.2 million weights at width 64.

    Args:
        classes: number of classes C.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        mean: per-channel mean that is subtracted, in units of the input.
        deviation: per-channel standard deviation that is divided by.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 64,
        mean: tuple[float, float, float] = CIFAR10_MEAN,
        deviation: tuple[float, float, float] = CIFAR10_DEVIATION,
    ) -> None:
        channels = (width, 2 * width, 4 * width, 8 * width)
        super().__init__(channels, 2, classes=classes, mean=mean, deviation=deviation)


class CompactResNet(ResNet):
    """Three basic blocks at 16x16, 8x8 and 4x4: 0.7 million weights, for machines without a GPU.

    One pass costs a twentieth of ResNet-18's.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__((48, 96, 192), 1, stem_stride=2, classes=classes)
