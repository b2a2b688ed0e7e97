"""The arithmetic and the memory traffic that a model's passes need, operation by operation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hcnn_fast.engine.inputs import Classifier, as_logits


@dataclass(frozen=True)
class ModelWork:
    """What one image needs, in a batch of `batch` images.

    A multiplication and an addition are two floating-point operations; only products (linear,
    convolution, attention) are counted, as is usual, convolutions as plain sums. Bytes are those of
    every tensor that an operation reads or writes, views apart: what moves if nothing is fused or
    stays in a cache.

    Attributes:
        forward_flops, backward_flops: of a forward pass, and of the gradient in the image.
        forward_bytes, backward_bytes: the same of the traffic, weights shared by the batch.
        batch: images that passed together while it was counted.
    """

    forward_flops: float
    backward_flops: float
    forward_bytes: float
    backward_bytes: float
    batch: int

    def flops(self, forwards: int, backwards: int) -> float:
        """Floating-point operations of so many passes of single images."""
        return forwards * self.forward_flops + backwards * self.backward_flops

    def bytes(self, forwards: int, backwards: int) -> float:
        """Bytes read and written in so many passes of single images."""
        return forwards * self.forward_bytes + backwards * self.backward_bytes

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def model_work(
    model: Classifier,
    x: Tensor,  # [B, *image]
) -> ModelWork:
    """Count a forward pass and the gradient in the images; no weight gradient is computed.

    Raises:
        ValueError: x holds no image.
    """
    if not len(x):
        raise ValueError("x is empty, expected at least one image [B, *image]")
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
            logits = as_logits(model(leaf), len(leaf))
        seed = torch.ones_like(logits)
        with FlopCounterMode(display=False) as back_flops, _Traffic() as back_traffic:
            torch.autograd.grad(logits, leaf, seed)
    return ModelWork(
        forward_flops=flops.get_total_flops() / len(x),
        backward_flops=back_flops.get_total_flops() / len(x),
        forward_bytes=traffic.bytes / len(x),
        backward_bytes=back_traffic.bytes / len(x),
        batch=len(x),
    )


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the sizes of the tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view:
            for leaf in tree_leaves((args, kwargs, output)):
                if isinstance(leaf, Tensor):
                    self.bytes += leaf.numel() * leaf.element_size()
        return output
