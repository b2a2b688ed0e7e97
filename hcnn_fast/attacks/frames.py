"""Adversarial frames: a border of free pixels around an untouched image."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.attacks.backtracking import Ascent, climb_by_gradient
from hcnn_fast.attacks.checks import check_count
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import ObjectiveName
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier


def frames(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    width: int = 2,
    steps: int = 100,
    step_size: float | None = None,
    momentum: float = 0.9,
    backtrack: float = 1.1,
    objective: ObjectiveName = "confidence",
    starts: int = 1,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the model wrong about x by the pixels of its border, which may take any value in bounds.

    The pixels are replaced by ascent along the sign of the gradient, with momentum and
    backtracking. Every other pixel keeps its value to the bit.

    Args:
        model: differentiable nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, ..., H, W] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        width: pixels of the border on every side.
        steps: gradient steps of each start; the source takes 1000.
        step_size: length of the first steps; None: 1 % of the bounds.
        momentum: factor in [0, 1) on the averaged sign of the gradient.
        backtrack: divides the step of an image where it would go down; 1: all have one length.
        objective: "confidence" max_k log F_k over k != y, or "margin" max_k Z_k - Z_y.
        starts: restarts per image; the first begins at x, the others with random borders.
        seed: seed of the random borders, which depend on it and on the image alone.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of images that pass the model at once; None: planned.

    Returns:
        Of all points reached the best: a success before a failure, then the larger objective.
        `queries` counts all forward passes.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.

    Source: Zajac et al. 2019, "Adversarial Framing for Image and Video Classification"; Stutz et
    al. 2020 (CCAT), which takes 2 pixels for images of 28 x 28 and 3 for 32 x 32.
    """
    check_count("width", width)
    if isinstance(x, Tensor) and (x.ndim < 3 or min(x.shape[-2:]) <= 2 * width):
        raise ValueError(
            f"width is {width} and x has shape {tuple(x.shape)}, expected images [N, ..., H, W] "
            "with pixels inside the frame"
        )
    config = SearchConfig.mcn(
        1.0,  # the room is the frame, not a ball
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        starts=starts,
        seed=seed,
        bounds=bounds,
        backend=backend,
        batch_size=batch_size,
    )
    low, high = config.bounds
    ascent = Ascent(steps, step_size or 0.01 * (high - low), momentum, backtrack)

    def room(image: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.zeros(image.shape[-2:], dtype=torch.bool, device=image.device)
        inside[width:-width, width:-width] = True
        return image.where(inside, low), image.where(inside, high)

    return climb_by_gradient(model, x, y, config, ascent, objective=objective, room=room)
