"""The wide ResNet of the CIFAR-10 challenge of Madry et al. ("w32-10 wide")."""

from __future__ import annotations

import math

from torch import Tensor, nn

SLOPE = 0.1  # of the leaky ReLU below 0


def standardise(
    images: Tensor,  # [N, C, H, W] in [0, 1]
) -> Tensor:  # [N, C, H, W]
    """Each image less its mean, over its standard deviation, taken over all its values.

    The deviation counts as at least 1 / sqrt(C H W) grey levels of 255, so that a constant image
    becomes 0. The gradient flows through mean and deviation; it is finite for constant images.
    """
    grey_levels = images * 255.0
    centred = grey_levels - grey_levels.mean((1, 2, 3), keepdim=True)
    variance = centred.square().mean((1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
    return centred / variance.clamp_min(1.0 / images[0:1].numel() if len(images) else 1.0).sqrt()


def shortcut(
    features: Tensor,  # [N, C_in, H, W]
    channels_out: int,
    stride: int,
) -> Tensor:  # [N, C_out, H // stride, W // stride]
    """Average over stride x stride blocks, then zero channels added evenly on both sides."""
    missing = channels_out - features.shape[1]
    pooled = nn.functional.avg_pool2d(features, stride, stride)
    before = missing // 2
    return nn.functional.pad(pooled, (0, 0, 0, 0, before, missing - before))


class ResidualUnit(nn.Module):
    """Pre-activation unit: norm, leaky ReLU, convolution, twice, beside the shortcut.

    Args:
        channels_in: channels coming in.
        channels_out: channels going out.
        stride: of the first convolution; it pads below and right only where the stride is 2, as
            the "SAME" rule of the original does for even sizes.
        shared_activation: the shortcut, too, takes the activated input (first unit of the net).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        shared_activation: bool = False,
    ) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.changes_shape = channels_in != channels_out
        self.stride = stride
        self.shared_activation = shared_activation
        self.first_norm = _norm(channels_in)
        self.first = nn.Conv2d(
            channels_in, channels_out, 3, stride, padding=1 if stride == 1 else 0, bias=False
        )
        self.second_norm = _norm(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(
        self,
        features: Tensor,  # [N, channels_in, H, W]
    ) -> Tensor:  # [N, channels_out, H / stride, W / stride]
        """shortcut(x) + residual(x)."""
        active = nn.functional.leaky_relu(self.first_norm(features), SLOPE)
        kept = active if self.shared_activation else features
        if self.stride != 1:
            active = nn.functional.pad(active, (0, 1, 0, 1))
        residual = self.first(active)
        residual = nn.functional.leaky_relu(self.second_norm(residual), SLOPE)
        residual = self.second(residual)
        if self.changes_shape:
            kept = shortcut(kept, self.channels_out, self.stride)
        summed: Tensor = kept + residual
        return summed


class WideResNet(nn.Module):
    """3x3 convolution to 16, three stages of residual units, global average, linear layer.

    Inputs are in [0, 1] and standardised inside; the output equals that of the original on
    [0, 255]. With the defaults 45,901,914 parameters and 6.63 billion multiplications per image.

    Args:
        classes: number of classes C.
        widths: channels of the three stages.
        units: residual units per stage.

    Source: Madry et al. 2018 and its CIFAR-10 challenge code (model.py).
    """

    def __init__(
        self,
        classes: int = 10,
        widths: tuple[int, int, int] = (160, 320, 640),
        units: int = 5,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        stages = []
        channels = 16
        for stage, width in enumerate(widths):
            stride = 1 if stage == 0 else 2
            first = ResidualUnit(channels, width, stride, shared_activation=stage == 0)
            rest = [ResidualUnit(width, width) for _ in range(units - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.final_norm = _norm(channels)
        self.output = nn.Linear(channels, classes)
        self._initialise()

    def forward(
        self,
        images: Tensor,  # [N, 3, H, W] in [0, 1]
    ) -> Tensor:  # [N, C] logits
        """Logits of colour images with values in [0, 1]."""
        features = self.stages(self.stem(standardise(images)))  # [N, 640, H / 4, W / 4]
        features = nn.functional.leaky_relu(self.final_norm(features), SLOPE)
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits

    def _initialise(self) -> None:
        """Normal kernels of deviation sqrt(2 / (9 out)); uniform last layer without bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / (9 * module.out_channels)))
        limit = math.sqrt(3.0 / self.output.in_features)
        nn.init.uniform_(self.output.weight, -limit, limit)
        nn.init.zeros_(self.output.bias)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the original's decay of 0.9 and epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)
