"""ReLU of bfloat16 maps on a CPU as a comparison of integers.

Read as a signed integer, a bfloat16 number is negative if and only if its sign is. Comparing so
takes two fifths of the time of what the library does, widening to float32 and rounding back
(bench/results/low-precision-cpu.json). It counts where tiles of bfloat16 make the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hcnn_fast.engine.layers import is_batched

FEWEST_ROWS = 32  # smaller batches spend more on looking at every call of torch than is saved

_NEW = (torch.relu, Tensor.relu, functional.relu)
_IN_PLACE = (torch.relu_, Tensor.relu_, functional.relu_)


class IntegerRectifier(TorchFunctionMode):
    """While it is entered, torch's ReLU of bfloat16 on the CPU is computed as above.

    It gives the same bits, but for -0, which becomes 0, and for NaN with a sign, which becomes 0 as
    well: scores, which are checked, are computed without it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What the function gives; a ReLU as above."""
        keywords = kwargs or {}
        if func in _NEW or func in _IN_PLACE:
            maps = args[0] if args else keywords["input"]
            asked = args[1] if len(args) > 1 else keywords.get("inplace", False)
            if suits(maps):
                return rectified(maps, in_place=func in _IN_PLACE or bool(asked))
        return func(*args, **keywords)


def suits(maps: Any) -> bool:
    """Whether these are plain bfloat16 maps on the CPU."""
    return (
        type(maps) is Tensor
        and maps.dtype == torch.bfloat16
        and maps.device.type == "cpu"
        and not torch._C._are_functorch_transforms_active()  # vmap and others
    )


def rectified(maps: Tensor, *, in_place: bool) -> Tensor:
    """max(maps, 0), in the memory of `maps` if asked for."""
    if maps.requires_grad and torch.is_grad_enabled():
        output: Tensor = _Rectifier.apply(maps, in_place)
        return output
    return _clamp(maps, in_place)


def _clamp(maps: Tensor, in_place: bool) -> Tensor:
    bits = maps.view(torch.int16)
    if in_place:
        bits.clamp_min_(0)
        return maps
    return bits.clamp_min(0).view(maps.dtype)


class _Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, in_place: bool) -> Tensor:
        output = _clamp(maps, in_place)
        if in_place:
            ctx.mark_dirty(maps)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,), (gradient,) = ctx.saved_tensors, gradients
        passed = torch.ops.aten.threshold_backward
        if torch.is_grad_enabled() or is_batched(gradient):  # to be differentiated in turn
            return passed(gradient, output, 0), None
        bits = passed(gradient.view(torch.int16), output.view(torch.int16), 0)
        return bits.view(gradient.dtype), None
