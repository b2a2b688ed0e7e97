"""Low-precision convolutions of small maps with large weights, each as one matrix product.

Where maps are small and weights large, libraries read the weights again for every few pixels. With
the patches of all maps one under the other (im2col) a product reads them once: on processors that
multiply tiles of bfloat16, and so wait for weights, that is nearly twice as fast
(bench/results/low-precision-cpu.json).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from hcnn_fast.engine.layers import is_batched, is_unwatched
from hcnn_fast.engine.phases import maps_of_phases, phases_of

LARGE_WEIGHTS = 1 << 20  # values
FEW_PIXELS = 32  # of an output's map

Pair = tuple[int, int]


def im2col(
    maps: Tensor,  # [B, I, H, W]
    kernel: Pair,
    stride: Pair,
    before: Pair,
    count: Pair,
) -> Tensor:  # [B * rows * columns, h * w * I]
    """The patches that the outputs of a convolution read, in the order of the outputs.

    Args:
        maps: what is read; zeros lie around it.
        kernel: rows and columns of a patch.
        stride: pixels from one to the next.
        before: rows above and columns to the left of the maps, where the first patch begins.
        count: rows and columns of patches.
    """
    images, channels, *size = maps.shape
    (height, width), (rows, columns) = kernel, count
    bottom, right = (
        (count[axis] - 1) * stride[axis] + kernel[axis] - before[axis] - size[axis]
        for axis in range(2)
    )
    around = (0, 0, before[1], right, before[0], bottom)
    padded = functional.pad(maps.permute(0, 2, 3, 1), around).contiguous()
    image, row, pixel, _ = padded.stride()
    patches = padded.as_strided(
        (images, rows, columns, height, width * channels),
        (image, stride[0] * row, stride[1] * pixel, row, 1),
    )
    return patches.reshape(images * rows * columns, height * width * channels)


def as_product(
    weight: Tensor,  # [O, I, h, w]
) -> Tensor:  # [h * w * I, O]
    """The weights by which patches are multiplied."""
    return weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()


def convolved(
    maps: Tensor,  # [B, I, H, W]
    products: Tensor,  # [h * w * I, O]
    bias: Tensor | None,  # [O]
    kernel: Pair,
    stride: Pair,
    before: Pair,
    count: Pair,
) -> Tensor:  # [B, O, rows, columns] in channels-last order
    """A convolution, its geometry that of `im2col`."""
    patches = im2col(maps, kernel, stride, before, count)
    sums = torch.mm(patches, products) if bias is None else torch.addmm(bias, patches, products)
    return sums.view(len(maps), *count, products.shape[1]).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """The convolution; backward gives the gradient in the maps alone."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,  # [B, I, H, W]
        layer: Im2colConv2d,
    ) -> Tensor:  # [B, O, H', W']
        ctx.layer, ctx.size = layer, tuple(maps.shape[2:])
        count = layer.count(ctx.size)
        return convolved(
            maps, layer.ahead, layer.bias, layer.taps, layer.steps, layer.margin, count
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # [B, O, H', W']
        layer: Im2colConv2d = ctx.layer
        if is_batched(gradients[0]):
            shape = (len(gradients[0]), layer.in_channels, *ctx.size)
            given = (shape, layer.weight, gradients[0], layer.steps, layer.margin)
            return conv2d_input(*given), None  # type: ignore[no-untyped-call]  # torch's
        stride, margin = layer.steps, layer.margin
        taps = _pair(-(-layer.taps[axis] // stride[axis]) for axis in range(2))
        outside = _pair(margin[axis] // stride[axis] for axis in range(2))  # no pixel of the maps
        before = _pair(taps[axis] - 1 - outside[axis] for axis in range(2))
        count = _pair(
            (margin[axis] + ctx.size[axis] - 1) // stride[axis] - outside[axis] + 1
            for axis in range(2)
        )
        pixels = convolved(gradients[0], layer.back, None, taps, (1, 1), before, count)
        first = _pair(margin[axis] % stride[axis] for axis in range(2))
        return maps_of_phases(pixels, stride, first, ctx.size), None


class Im2colConv2d(nn.Conv2d):
    """nn.Conv2d with frozen weights in low precision.

    Attributes:
        ahead, back: weights of the products, of the convolution and of its input gradient.
        own: the weight that they were made of, and the bias.
    """

    ahead: nn.Parameter
    back: nn.Parameter
    own: tuple[Tensor, Tensor | None]

    @property
    def taps(self) -> Pair:
        """Rows and columns of the kernel."""
        return _pair(self.kernel_size)

    @property
    def steps(self) -> Pair:
        """The stride, down and across."""
        return _pair(self.stride)

    @property
    def margin(self) -> Pair:
        """Zeros above and to the left of the maps, and as many below and to the right."""
        return _pair(int(width) for width in self.padding)

    def count(self, size: Pair) -> Pair:
        """Rows and columns of the output for maps of some size."""
        return _pair(
            (size[axis] + 2 * self.margin[axis] - self.taps[axis]) // self.steps[axis] + 1
            for axis in range(2)
        )

    def _conv_forward(
        self,
        input: Tensor,  # [B, I, H, W]
        weight: Tensor,  # [O, I, h, w]
        bias: Tensor | None,  # [O]
    ) -> Tensor:  # [B, O, H', W']
        own = weight is self.own[0] and bias is self.own[1]  # not another's
        if not own or not self._suits(input):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        output: Tensor = _Convolution.apply(input.to(weight.dtype), self)
        return output

    def _suits(self, maps: Tensor) -> bool:
        """Whether the maps are small and convolved in the precision of the weights."""
        if torch._C._are_functorch_transforms_active() or maps.dim() != 4:  # vmap and others
            return False
        lowered = torch.is_autocast_enabled(maps.device.type)
        if maps.dtype != self.weight.dtype and not lowered:
            return False
        rows, columns = self.count(_pair(maps.shape[2:]))
        return rows > 0 and columns > 0 and rows * columns <= FEW_PIXELS


def _pair(values: Iterable[int]) -> Pair:
    down, across = values
    return down, across


def use_im2col(lowered: nn.Module) -> None:
    """Let a low-precision copy on the CPU compute its convolutions with large weights as above."""
    for module in lowered.modules():
        if _can_be(module):
            weight = module.weight.detach()
            module.__class__ = Im2colConv2d
            assert isinstance(module, Im2colConv2d)  # for the type checker
            stride = module.steps
            module.ahead = nn.Parameter(as_product(weight), requires_grad=False)
            back = as_product(phases_of(weight, stride))
            module.back = nn.Parameter(back, requires_grad=False)
            module.own = (module.weight, module.bias)


def _can_be(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and is_unwatched(module)
        and module.weight.dtype == torch.bfloat16
        and module.weight.numel() >= LARGE_WEIGHTS
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
