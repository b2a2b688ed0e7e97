"""Layers of a prepared model: which may be replaced, and a cheaper input gradient of some."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hcnn_fast.engine.phases import maps_of_phases, phases_of

_DTYPES = (torch.float32, torch.float64)  # others would round the products visibly


def is_unwatched(module: nn.Module) -> bool:
    """Whether it computes what its class says, and nobody looks on."""
    hooked = any(value for name, value in vars(module).items() if name.endswith("_hooks"))
    overridden = any(callable(getattr(type(module), name, None)) for name in vars(module))
    return not hooked and not overridden


def is_batched(tensor: Tensor) -> bool:
    """Whether it stands for a batch of tensors: under vmap, or with is_grads_batched."""
    functorch = torch._C._functorch
    return bool(functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor))


def is_plain(module: nn.Module) -> bool:
    """Whether it computes what its class says, in one precision, and nobody looks on."""
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = {tensor.dtype for tensor in tensors if tensor.dtype != torch.int64}  # batches counted
    return is_unwatched(module) and len(dtypes) == 1 and dtypes <= set(_DTYPES)


class _GreyConv2d(torch.autograd.Function):
    """A convolution of one-channel maps; backward gives the gradient in the maps alone."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,  # [B, 1, H, W]
        weight: Tensor,  # [O, 1, h, w]
        bias: Tensor | None,  # [O]
        phases: Tensor | None,  # of phases_of
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:  # [B, O, H', W']
        ctx.save_for_backward(weight, phases)
        ctx.geometry = (maps.shape[2:], maps.dtype, stride, padding)
        return functional.conv2d(maps, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # [B, O, H', W']
        weight, phases = ctx.saved_tensors
        size, dtype, stride, padding = ctx.geometry
        if phases is not None and gradients[0].dtype == phases.dtype:
            margin = phases.shape[2] - 1, phases.shape[3] - 1
            pixels = functional.conv2d(gradients[0], phases, padding=margin)
            maps = maps_of_phases(pixels, stride, padding, size).to(dtype)
        else:
            taps = weight.reshape(len(weight), -1).t()  # [h * w, O]
            columns = torch.matmul(taps.to(gradients[0].dtype), gradients[0].flatten(2))
            maps = functional.fold(
                columns.to(dtype), size, weight.shape[2:], padding=padding, stride=stride
            )
        return maps, None, None, None, None, None


class GreyConv2d(nn.Conv2d):
    """nn.Conv2d of one-channel maps with frozen weights.

    Libraries lay out their products over the channels of the gradient; with one channel nearly
    all of that work is thrown away. One matrix product over the output channels and a sum of the
    overlapping patches take a fifth of the time on a CPU. In low precision, where products are
    cheaper than moving patches, a convolution takes a third of that.

    Attributes:
        phases: the weights of that convolution; None in full precision.
        lowered: the weight that they were made of.
    """

    phases: nn.Parameter | None
    lowered: tuple[Tensor, ...]

    def _conv_forward(
        self,
        input: Tensor,  # [B, 1, H, W]
        weight: Tensor,  # [O, 1, h, w]
        bias: Tensor | None,  # [O]
    ) -> Tensor:  # [B, O, H', W']
        frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
        if input.dim() != 4 or not frozen or torch._C._are_functorch_transforms_active():
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        own = self.phases is not None and weight is self.lowered[0]  # not another's
        phases = self.phases if own else None
        output: Tensor = _GreyConv2d.apply(input, weight, bias, phases, self.stride, self.padding)
        return output

    def lower(self) -> None:
        """Be ready for passes in the dtype that the weights have got."""
        phases = phases_of(self.weight.detach(), (self.stride[0], self.stride[1]))
        self.phases, self.lowered = nn.Parameter(phases, requires_grad=False), (self.weight,)


def replace_grey_convolutions(frozen: nn.Module) -> None:
    """Let the one-channel convolutions of a frozen copy compute their input gradient as above."""
    for module in frozen.modules():
        if (
            type(module) is nn.Conv2d
            and module.in_channels == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            module.__class__ = GreyConv2d
            assert isinstance(module, GreyConv2d)  # for the type checker
            module.phases, module.lowered = None, ()
