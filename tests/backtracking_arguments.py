"""Arguments of `ops.backtracking_step_`: ordinary ones, and special values where they hurt."""

from __future__ import annotations

import math

import torch
from step_arguments import SPECIAL, Arguments
from torch import Tensor

WRITTEN = (
    "proposal",
    "point",
    "value",
    "uphill",
    "average",
    "step_size",
    "best",
    "best_value",
)


def backtracking_arguments(
    *,
    rows: int = 6,
    shape: tuple[int, ...] = (7,),
    images: int = 3,
    dtype: torch.dtype = torch.float32,
    radius: float = 0.125,
    bounds: tuple[float, float] = (0.0, 1.0),
    momentum: float = 0.9,
    backtracking: float | None = 1.5,
    direction: str = "sign",
    keeps_best: bool = True,
    special: bool = False,
    channels_last: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Arguments:
    """All keyword arguments of one call.

    About half of the proposals lower the objective; the first two rows tie with the value and with
    the best value. `special` puts zeros, infinities, NaN and the smallest numbers among gradients,
    averages, values and steps.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    def spoilt(tensor: Tensor) -> Tensor:
        if special and tensor.numel():
            chosen = torch.randint(2 * len(SPECIAL), tensor.shape, generator=generator)
            for position, number in enumerate(SPECIAL):
                tensor[chosen == position] = number
        return tensor

    low, high = bounds
    image = low + (high - low) * uniform(images, *shape)
    index = torch.randint(images, (rows,), generator=generator)
    limit = radius if math.isfinite(radius) else 1.0

    def near() -> Tensor:
        return (image[index] + limit * (2.0 * uniform(rows, *shape) - 1.0)).clamp(low, high)

    value, reached = uniform(rows), uniform(rows)
    best_value = torch.maximum(value, uniform(rows)) - 0.2
    reached[:1] = value[:1]
    best_value[1:2] = reached[1:2]
    arguments: Arguments = {
        "proposal": near(),
        "gradient": spoilt(torch.randn(rows, *shape, generator=generator, dtype=torch.float64)),
        "reached": spoilt(reached),
        "point": near(),
        "value": value,
        "uphill": (3.0 * uniform(rows, *shape)).floor() - 1.0,
        "average": spoilt(2.0 * uniform(rows, *shape) - 1.0),
        "step_size": spoilt(limit * (0.1 + uniform(rows))),
        "image": image,
        "image_index": index,
        "radius": radius,
        "bounds": bounds,
        "momentum": momentum,
        "backtracking": backtracking,
        "direction": direction,
        "best": near() if keeps_best else None,
        "best_value": best_value if keeps_best else None,
    }
    for name, tensor in arguments.items():
        if isinstance(tensor, Tensor):
            if channels_last and tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            if tensor.dtype == torch.float64:
                tensor = tensor.to(dtype)
            arguments[name] = tensor.to(device)
    return arguments
