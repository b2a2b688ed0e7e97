"""Distal adversarial examples: noise of which a classifier is made confident."""

from __future__ import annotations

import torch
from torch import Tensor

from hcnn_fast.attacks.backtracking import Ascent, climb_by_gradient
from hcnn_fast.attacks.checks import check_count
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier


def distal(
    model: Classifier,
    x: Tensor,
    *,
    radius: float,
    steps: int = 100,
    step_size: float | None = None,
    momentum: float = 0.9,
    backtrack: float = 1.1,
    starts: int = 1,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Raise the largest log probability, of whichever class, within |z - x|_inf <= radius.

    The images are noise, see `uniform_noise`: no class is right, so every answer counts as a
    success, and what tells is the confidence, against the threshold of a rejecting classifier.

    Args:
        model: differentiable nn.Module or callable giving logits [N, C]; left as it is.
        x: [N, *image] float32 or float64 within `bounds`, images of no class.
        radius: l_inf radius in input units; the source takes the radius of training and 0.3.
        steps: gradient steps of each start; the source takes 1000.
        step_size: length of the first steps; None: radius / 10.
        momentum: factor in [0, 1) on the averaged sign of the gradient.
        backtrack: divides the step of an image where it would go down; 1: all have one length.
        starts: restarts per image; the first begins at x, the others at random points of the ball.
        seed: seed of the random starts, which depend on it and on the image alone.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of images that pass the model at once; None: planned.

    Returns:
        The most confident point reached; `value` is max_k log F_k there, `success` is always true,
        and `queries` counts all forward passes.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.

    Source: Hein et al. 2019, "Why ReLU Networks Yield High-Confidence Predictions Far Away From the
    Training Data"; Stutz et al. 2020 (CCAT).
    """
    config = SearchConfig.mcn(
        radius,
        steps=steps,
        step_size=step_size,
        momentum=momentum,
        starts=starts,
        seed=seed,
        bounds=bounds,
        backend=backend,
        batch_size=batch_size,
    )
    ascent = Ascent(steps, step_size or radius / 10.0, momentum, backtrack)
    return climb_by_gradient(model, x, None, config, ascent, objective="confidence")


def uniform_noise(
    count: int,
    image: tuple[int, ...],
    *,
    smoothing: float = 0.0,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:  # [count, *image] float32
    """Images of uniform noise, the same for one seed, on the CPU.

    Args:
        count: number of images.
        image: shape of one image; the last two are height and width where `smoothing` > 0.
        smoothing: standard deviation in pixels of a Gaussian blur, after which every image is
            stretched to span the bounds again; 0: none.
        seed: seed of the noise; a larger count begins with the same images.
        bounds: smallest and largest value.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
    """
    check_count("count", count, 0)
    if not 0.0 <= smoothing < torch.inf:  # NaN fails too
        raise ValueError(f"smoothing is {smoothing!r}, expected a finite number >= 0")
    if not image or (smoothing and len(image) < 2):
        raise ValueError(f"image is {image!r}, expected a shape that ends with height and width")
    low, high = SearchConfig.mcn(1.0, seed=seed, bounds=bounds).bounds
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, *image, generator=generator)
    if smoothing and count:
        noise = _blur(image[-2], smoothing) @ noise @ _blur(image[-1], smoothing).T
        flat = noise.flatten(1)
        flat = flat - flat.amin(1, keepdim=True)
        noise = (flat / flat.amax(1, keepdim=True)).view_as(noise)
    return (low + noise * (high - low)).clamp(low, high)


def _blur(length: int, deviation: float) -> Tensor:  # [length, length]
    """Gaussian weights of every pixel of a line on every other; they add to 1 in each row."""
    at = torch.arange(length, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((at[:, None] - at) / deviation) ** 2)
    return (weight / weight.sum(1, keepdim=True)).float()
