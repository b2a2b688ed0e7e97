"""3x3 convolutions of a prepared model with a quarter of the products, on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hcnn_fast.engine.layers import is_plain
from hcnn_fast.engine.trial import TrialFailed, agree, trial_logits, twin

# As in csrc/operations/winograd_convolution.h and its CPU implementation.
TAPS, TILE, CHANNELS, GROUP, GAP, PANEL = 3, 4, 16, 12, 16, 32
PRODUCTS = (TILE + TAPS - 1) ** 2
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity

FEW_TILES, MANY_TILES = 24, 48  # that a thread has in work: near its cache; worth reading weights
SHARE = 4  # tiles that are worth a thread
LARGE_WEIGHTS = 16 << 20  # bytes of transformed weights that no cache holds
FILLED = 0.5  # of the tiles, at least: what they compute beyond the maps is thrown away
# Transformed weights take four times the room, once for each direction, and as much again while
# they are made. Deep layers, whose weights are the largest, stay as they are where that is more.
ROOM = 1 << 30  # bytes


def transform_weight(
    weight: Tensor,  # [O, I, 3, 3]
) -> Tensor:  # [36, I * O] float32
    """G g G^T of the weights g, in the order in which the operation reads them.

    The rows of G evaluate a polynomial of degree 2 at POINTS, over the product of a point's
    distances from the others, and at infinity. They are multiplied in float64 and rounded once.
    """
    rows = []
    for at in POINTS:
        scale = 1.0
        for other in POINTS:
            scale *= at - other if other != at else 1.0
        rows.append([at**power / scale for power in range(TAPS)])
    rows.append([0.0, 0.0, 1.0])
    g = torch.tensor(rows, dtype=torch.float64, device=weight.device)  # [6, 3]
    taps = weight.double().permute(2, 3, 1, 0).flatten(0, 1)  # [9, I, O]
    products = (torch.kron(g, g) @ taps.flatten(1)).float().view(PRODUCTS, *taps.shape[1:])
    return torch.cat([panel.flatten(1) for panel in torch.split(products, PANEL, 2)], 1)


def tiles_in(size: int) -> int:
    """Tiles that cover so many outputs along an axis."""
    return -(-size // TILE)


def weight_bytes(channels: int, out_channels: int) -> int:
    """Of the transformed weights of one direction."""
    return 4 * PRODUCTS * channels * out_channels


def workspace_shape(channels: int, out_channels: int, tiles: int) -> tuple[int, int, int]:
    """Threads that pay for so many tiles, tiles that each has in work, and floats of a tile."""
    large = weight_bytes(channels, out_channels) >= LARGE_WEIGHTS
    threads = max(1, min(torch.get_num_threads(), -(-tiles // SHARE)))
    share = max(1, -(-tiles // threads))
    together = min(MANY_TILES if large else FEW_TILES, -(-share // GROUP) * GROUP)
    return threads, together, PRODUCTS * (channels + out_channels) + 2 * GAP


def winograd_convolution(
    maps: Tensor,  # [B, I, H, W] float32 in channels-last order
    weight: Tensor,  # [36, I * O] of transform_weight
    bias: Tensor | None,  # [O]
    padding: int,
    vector_bytes: int = 0,
) -> Tensor:  # [B, O, H', W'] in channels-last order
    """conv2d with 3x3 weights and stride 1, rounded two to three times as much as a plain sum.

    Winograd 1980, as in Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016:
    F(4x4, 3x3), with points that round less than the usual ones. Rounding is relative to the
    largest entry that a tile reads, also where that has no weight. An entry that is not finite
    makes all outputs of its tiles NaN.

    Args:
        maps: what is convolved; channels are multiples of 16.
        weight: see `transform_weight`.
        bias: of the outputs.
        padding: zeros around the maps, 0 to 2 on each side.
        vector_bytes: of the registers used: 16, 32 or 64, or 0 for the widest there are.

    Raises:
        RuntimeError: an argument is not as it should be, or the processor has no such registers.
    """
    images, channels, height, width = maps.shape
    out_channels = weight.shape[1] // channels
    height, width = height + 2 * padding - TAPS + 1, width + 2 * padding - TAPS + 1
    out = torch.empty(
        (images, out_channels, height, width),
        dtype=maps.dtype,
        device=maps.device,
        memory_format=torch.channels_last,
    )
    tiles = images * tiles_in(height) * tiles_in(width)
    workspace = maps.new_empty(workspace_shape(channels, out_channels, tiles))
    torch.ops.hcnn_fast.winograd_convolution(
        maps, weight, bias, padding, vector_bytes, workspace, out
    )
    return out


class _Convolution(torch.autograd.Function):
    """The convolution; backward gives the gradient in the maps alone: another convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,  # [B, I, H, W]
        weight: Tensor,  # [36, I * O]
        turned: Tensor,  # [36, O * I], of the convolution backwards
        bias: Tensor | None,  # [O]
        padding: int,
    ) -> Tensor:  # [B, O, H', W']
        ctx.weight, ctx.turned, ctx.padding = weight, turned, padding
        return winograd_convolution(maps, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # [B, O, H', W']
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        padding = TAPS - 1 - ctx.padding
        # differentiable in turn, for models that use gradients of their own
        maps: Tensor = _Convolution.apply(gradient, ctx.turned, ctx.weight, None, padding)
        return maps, None, None, None, None


def suits(layer: nn.Conv2d, maps: Tensor) -> bool:
    """Whether maps of a 3x3 layer are such as the operation takes, and fill its tiles."""
    if (
        torch._C._are_functorch_transforms_active()  # vmap and others
        or maps.dim() != 4
        or maps.dtype != torch.float32
        or torch.is_autocast_enabled(maps.device.type)
        or not maps.is_contiguous(memory_format=torch.channels_last)
    ):
        return False
    margin = int(layer.padding[0])
    height, width = (size + 2 * margin - TAPS + 1 for size in maps.shape[2:])
    covered = tiles_in(height) * tiles_in(width) * TILE**2
    return height > 0 and width > 0 and height * width >= FILLED * covered


class WinogradConv2d(nn.Conv2d):
    """nn.Conv2d with frozen 3x3 weights, transformed once.

    Attributes:
        ahead, back: [36, I * O], the weights of the convolution and of its input gradient, which is
            a convolution as well: of turned weights, from output to input channels.
        transformed: the weight that they were made of, and the bias.
    """

    ahead: nn.Parameter
    back: nn.Parameter
    transformed: tuple[Tensor, Tensor | None]

    def _conv_forward(
        self,
        input: Tensor,  # [B, I, H, W]
        weight: Tensor,  # [O, I, 3, 3]
        bias: Tensor | None,  # [O]
    ) -> Tensor:  # [B, O, H', W']
        own = weight is self.transformed[0] and bias is self.transformed[1]  # not another's
        if not own or not suits(self, input):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        margin = int(self.padding[0])
        output: Tensor = _Convolution.apply(input, self.ahead, self.back, bias, margin)
        return output


@dataclass(frozen=True)
class Changed:
    """A frozen model and how many of its convolutions take fewer products.

    Attributes:
        model: the copy, with layers replaced or as it was.
        layers: how many were replaced.
    """

    model: nn.Module
    layers: int


def with_winograd_convolutions(
    frozen: nn.Module,
    image: Tensor,  # [0 or 1, *image]
    room: int = ROOM,
) -> Changed:
    """A frozen copy whose 3x3 convolutions are computed as above, where that is possible.

    One whose logits at the image then differ by more than rounding stays as it is, as does one of
    which parts are compiled.

    Args:
        frozen: a copy on the CPU that asks for no gradients, with channels-last weights.
        image: an image to try it on, or none (then nothing is changed).
        room: bytes that making and using the transformed weights may take.
    """
    unchanged = Changed(frozen, 0)
    if not len(image) or not any(_can_be(module) for module in frozen.modules()):
        return unchanged
    if any(hasattr(module, "_orig_mod") for module in frozen.modules()):
        return unchanged
    watched, suited = twin(frozen), set[str]()
    for name, module in watched.named_modules():
        if _can_be(module):
            module.register_forward_pre_hook(partial(_note, name, suited))
    changed, layers, left = twin(frozen), 0, room
    try:
        expected = trial_logits(watched, image)
        for name, module in changed.named_modules():
            if name in suited and _can_be(module):
                channels = module.in_channels, module.out_channels
                left -= 2 * 2 * weight_bytes(*channels)
                if left < 4 * math.prod(workspace_shape(*channels, tiles=1)):
                    break
                _transform(module)
                layers += 1
        if not layers:
            return unchanged
        found = trial_logits(twin(changed), image)
    except TrialFailed:
        return unchanged
    return Changed(changed, layers) if agree(found, expected) else unchanged


def _note(name: str, suited: set[str], layer: nn.Conv2d, arguments: tuple[Tensor, ...]) -> None:
    """A hook: the name of a layer whose maps the operation takes."""
    if arguments and suits(layer, arguments[0]):
        suited.add(name)


def _can_be(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and is_plain(module)
        and module.kernel_size == (TAPS, TAPS)
        and module.stride == module.dilation == (1, 1)
        and module.padding in [(width, width) for width in range(TAPS)]
        and module.padding_mode == "zeros"
        and module.groups == 1
        and module.in_channels % CHANNELS == module.out_channels % CHANNELS == 0
        and module.weight.dtype == torch.float32
    )


def _transform(layer: nn.Conv2d) -> None:
    weight = layer.weight.detach()
    layer.__class__ = WinogradConv2d
    assert isinstance(layer, WinogradConv2d)  # for the type checker
    # parameters, which trial copies share
    layer.ahead = nn.Parameter(transform_weight(weight), requires_grad=False)
    turned = weight.flip(2, 3).transpose(0, 1)
    layer.back = nn.Parameter(transform_weight(turned), requires_grad=False)
    layer.transformed = (layer.weight, layer.bias)
