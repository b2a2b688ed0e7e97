"""How many candidates pass the model at once, and what happens when memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hcnn_fast.engine.batch_sizes import filled_size
from hcnn_fast.engine.free_memory import return_freed_memory

# On the CPU the batch is kept small enough that the activations of a layer stay near the caches:
# larger blocks are evicted between layers, or even mapped and faulted in anew at every step. A
# model of large activations still gets some images, to share the reading of its weights.
CPU_LAYER_BYTES = 12 << 20
CPU_LEAST = 32
GPU_SHARE = 0.5
LARGEST_BATCH = 8192
BLOCK_BYTES = 1 << 29
BLOCK_BATCHES = 4  # so that what is left of the labels of many images still fills a batch
# Tensors of a block at the moment of most of them. Of a candidate's points: the best, and the slope
# at the image; start and slope of the runs at hand, twice where other opinions are asked; what the
# first runs found, what the second did, and the joining of batches. Norms of distances in float64
# come to as many.
POINTS_OF_A_CANDIDATE = 12


class OutOfMemory(torch.OutOfMemoryError):
    """Memory does not suffice for a single candidate in the batch; the cause is attached."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "bad_alloc" in text
    )


def _saved_bytes(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,  # [B, *image]
) -> list[int]:
    """Size of every tensor that autograd keeps for the backward pass of these images, in order."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    keep = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.enable_grad(), keep:
        forward(x.clone().requires_grad_())
    return sizes


def activation_bytes(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,  # [1, *image]
) -> list[int]:
    """What one more image adds to the tensors kept for a backward pass, weights apart."""
    one = _saved_bytes(forward, image)
    two = _saved_bytes(forward, torch.cat([image, image]))
    if len(one) != len(two):  # the model's path depends on its batch: count weights too
        return one
    return [more - less for less, more in zip(one, two, strict=True)]


def plan_batch_size(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,  # [N, *image], N >= 1
) -> int:
    """Candidates per pass, from the activations that one image leaves for its backward pass.

    Where memory fails already here, one: the search itself then says whether one is too many.
    """
    try:
        sizes = activation_bytes(forward, x[:1])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return 1
    point = x[0].numel() * x.element_size()
    if x.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(x.device)
        return max(1, min(LARGEST_BATCH, int(GPU_SHARE * free / (2 * sum(sizes) + 8 * point))))
    planned = max(CPU_LEAST, min(LARGEST_BATCH, CPU_LAYER_BYTES // max([*sizes, point])))
    return filled_size(planned)


def plan_block(
    x: Tensor,  # [N, *image], N >= 1
    runs: int,
    batch: int,
) -> int:
    """Images that are searched together: enough for some batches, unless their candidates are many.

    Of every candidate of an image a few points are kept until the image's winner is known.
    """
    candidate = POINTS_OF_A_CANDIDATE * x[0].numel() * x.element_size()
    return max(1, min(BLOCK_BATCHES * batch, BLOCK_BYTES // max(1, runs * candidate)))


def in_batches(total: int, size: int, run: Callable[[int, int], None]) -> int:
    """Call run(begin, end) over [0, total); where memory fails, halve `size` and repeat.

    A call that fails must leave nothing behind: its range is gone through again in smaller parts.

    Returns:
        The size that sufficed.

    Raises:
        OutOfMemory: memory does not suffice for a batch of one, which is for the caller to see, or
            for an outer `in_batches` whose smaller parts leave it more.
    """
    begin = 0
    while begin < total:
        end = min(total, begin + size)
        try:
            run(begin, end)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                cause = error.__cause__ if isinstance(error, OutOfMemory) else error
                raise OutOfMemory("out of memory with a single candidate in the batch") from cause
            size = (min(size, end - begin) + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        return_freed_memory()
        begin = end
    return size
