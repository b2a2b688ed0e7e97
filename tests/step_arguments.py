"""Arguments of `ops.pgd_step_`: ordinary ones, and special values where they hurt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]

WRITTEN = (
    "point",
    "momentum_buffer",
    "best",
    "best_value",
    "distance",
    "copy",
    "previous",
    "motion",
    "reach",
)
SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1.0, 1.0, -1.0)


def step_arguments(
    *,
    rows: int = 5,
    shape: tuple[int, ...] = (7,),
    images: int = 3,
    dtype: torch.dtype = torch.float32,
    gradient_dtype: torch.dtype | None = None,
    copy_dtype: torch.dtype | None = None,
    momentum: float | None = 0.75,
    penalised: bool = True,
    keeps_best: bool = True,
    watched: bool = True,
    norm: str = "linf",
    radius: float = 0.125,
    bounds: tuple[float, float] = (0.0, 1.0),
    special: bool = False,
    channels_last: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Arguments:
    """All keyword arguments of one call; what an option turns off is None.

    Half of the pixels of a point are off the image by less than the radius, a quarter lie on the
    boundary of the ball and a quarter on the image. `special` puts zeros, infinities, NaN, the
    smallest numbers and ties among the gradients. `watched` asks what became of the point, and what
    was in its reach.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    low, high = bounds
    image = (low + (high - low) * uniform(images, *shape)).to(dtype)
    index = torch.randint(images, (rows,), generator=generator)
    away = (2.0 * uniform(rows, *shape) - 1.0) * radius
    kind = torch.randint(4, (rows, *shape), generator=generator)
    away = torch.where(kind == 0, radius * away.sign(), torch.where(kind == 1, 0.0, away))
    x = image[index]
    lower, upper = (x - radius).clamp_min(low), (x + radius).clamp_max(high)
    point = torch.minimum(torch.maximum(x + away.to(dtype), lower), upper)
    gradient = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
    if special and gradient.numel():
        chosen = torch.randint(2 * len(SPECIAL), gradient.shape, generator=generator)
        for position, value in enumerate(SPECIAL):
            gradient[chosen == position] = value
    arguments: Arguments = {
        "point": point,
        "gradient": gradient.to(gradient_dtype or dtype),
        "image": image,
        "image_index": index,
        "step_size": (radius * (0.1 + uniform(rows))).to(dtype),
        "radius": radius,
        "bounds": bounds,
        "momentum_buffer": None,
        "momentum": 0.0 if momentum is None else momentum,
        "penalty": None,
        "norm": norm,
        "value": None,
        "distance_weight": 0.0,
        "best": None,
        "best_value": None,
        "distance": None,
        "copy": None,
        "previous": None,
        "motion": None,
        "reach": None,
    }
    if momentum is not None:
        arguments["momentum_buffer"] = (uniform(rows, *shape) - 0.5).to(dtype)
    if penalised:
        arguments["penalty"] = 2.0 * uniform(rows) * gradient.abs().nan_to_num(posinf=1.0).mean()
        arguments["penalty"] = arguments["penalty"].nan_to_num(nan=1.0).to(dtype)
    if keeps_best:
        arguments["value"] = uniform(rows).to(dtype)
        arguments["distance_weight"] = 0.3
        arguments["best"] = image[index].clone()
        arguments["best_value"] = uniform(rows).to(dtype)
        arguments["distance"] = uniform(rows).to(dtype)
    if copy_dtype is not None:
        arguments["copy"] = torch.zeros(rows, *shape, dtype=copy_dtype)
    if watched:
        arguments["previous"] = x + (2.0 * uniform(rows, *shape) - 1.0).to(dtype) * radius
        arguments["motion"] = torch.full((rows,), 9, dtype=torch.uint8)
        arguments["reach"] = torch.full((rows,), -1.0, dtype=dtype)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            if channels_last and value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            arguments[name] = value.to(device)
    return arguments


def duplicate(arguments: Arguments, device: torch.device | str | None = None) -> Arguments:
    """The same values and layouts in memory of their own."""
    copies = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            copies[name] = value.clone() if device is None else value.clone().to(device)
    return copies
