"""Where runs in l_p balls begin: the draws of CCAT, from the counter-based generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.norm_balls import BallNorm, size_of
from hcnn_fast.attacks.runs import Problem, Runs

Initialisation = Literal["zero", "gaussian", "uniform_norm", "uniform_volume"]
Draw = Literal["every", "batch", "example"]

SPARSE_SHARE = 0.66  # of the l0 radius: how many entries a start changes, on average


def check_initialisations(names: object, norm: BallNorm) -> tuple[Initialisation, ...]:
    """The names of the draws, one or more.

    Raises:
        TypeError: not a sequence of names.
        ValueError: none, an unknown one, or one that the l0 ball does not have.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"initialisations is {names!r}, expected a sequence of names")
    known = get_args(Initialisation) if norm != "l0" else ("zero", "uniform_norm")
    for name in names:
        if name not in known:
            raise ValueError(
                f"initialisations has {name!r}, expected names out of {', '.join(known)} "
                f"for norm {norm!r}"
            )
    if not names:
        raise ValueError("initialisations is empty, expected one name or more")
    return tuple(names)


def initial_points(
    problem: Problem,
    runs: Runs,
    names: Sequence[Initialisation],
    draw: Draw,
    norm: BallNorm,
) -> Tensor:  # [B, *image]
    """The points of `drawn_points`, projected onto ball and bounds."""
    drawn = drawn_points(problem, runs, names, draw, norm)
    if set(names) == {"zero"}:
        return drawn
    return problem.region(runs, norm).project_(drawn)


def drawn_points(
    problem: Problem,
    runs: Runs,
    names: Sequence[Initialisation],
    draw: Draw,
    norm: BallNorm,
) -> Tensor:  # [B, *image], not yet projected
    """First points of CCAT's attacks (Stutz et al. 2020; spec B.3).

    "gaussian" has standard deviation radius / (2 ln D); "uniform_norm" is a Gaussian direction of
    norm radius * U(0, 1), so dense near the image; "uniform_volume" has norm
    radius * U(0, 1)^(1 / D). For l0, "uniform_norm" changes each entry with probability
    0.66 * radius / D by U(-1, 1) times the range of the bounds.

    Args:
        problem: images, radius, bounds and seed.
        runs: which starts.
        names: the draws to choose from.
        draw: "every": start s is names[s]; "batch": one of them for all, by the seed alone;
            "example": one of them for every image, by seed and content.
        norm: norm of the ball.
    """
    image = problem.image[runs.index]  # [B, *image]
    if set(names) == {"zero"}:
        return image
    entries = image[0:1].numel()
    u = _uniforms(problem, runs, 2 + entries * (2 if norm == "l0" else 1))  # [B, 2 + ...]
    if draw == "every":
        which = runs.start
    else:
        share = u[:, 0] if draw == "example" else _batch_uniform(problem)
        which = (share * len(names)).long().clamp_max(len(names) - 1).expand(len(runs))
    point = image.clone()
    for name in sorted(set(names) - {"zero"}):
        move = _displacement(name, u[:, 1:], problem, norm, entries).view_as(image)
        here = torch.isin(
            which, torch.tensor([k for k, n in enumerate(names) if n == name]).to(which)
        )
        moved = (image.double() + move).to(image.dtype)
        point = torch.where(here.view((-1,) + (1,) * (image.ndim - 1)), moved, point)
    return point


def _displacement(
    name: Initialisation,
    u: Tensor,  # [B, 1 + D] or, for l0, [B, 1 + 2 D] float64 in (0, 1)
    problem: Problem,
    norm: BallNorm,
    entries: int,
) -> Tensor:  # [B, D] float64
    radius = problem.config.radius
    if norm == "l0":
        low, high = problem.config.bounds
        changed = u[:, 1 : 1 + entries] < SPARSE_SHARE * radius / entries
        return torch.where(changed, (2.0 * u[:, 1 + entries :] - 1.0) * (high - low), 0.0)
    direction: Tensor = torch.special.ndtri(u[:, 1:])  # [B, D] standard normal
    if name == "gaussian":
        return direction * (radius / max(1.0, 2.0 * math.log(entries)))
    share = u[:, :1] if name == "uniform_norm" else u[:, :1].pow(1.0 / entries)
    return direction * (radius * share / size_of(direction, norm)[:, None])


def _uniforms(
    problem: Problem,
    runs: Runs,
    columns: int,
) -> Tensor:  # [B, columns] float64 in (0, 1)
    """Numbers of 24 bits, keyed by seed, content of the image, target and start."""
    return _centred(problem, problem.content[runs.index], runs.target, runs.start + 1, columns)


def _batch_uniform(problem: Problem) -> Tensor:  # [1] float64 in (0, 1)
    """A number keyed by the seed alone, so that it does not depend on what is in the batch."""
    zero = problem.label.new_zeros(1)
    return _centred(problem, zero, zero, zero + 1, 1)[:, 0]


def _centred(
    problem: Problem,
    content: Tensor,  # [B] int64
    target: Tensor,  # [B] int64
    start: Tensor,  # [B] int64
    columns: int,
) -> Tensor:  # [B, columns] float64
    """The starts of images that are 0, in a ball of radius 1/2, moved to (0, 1)."""
    grey = torch.zeros((len(content), columns), dtype=problem.image.dtype, device=content.device)
    points = ops.random_starts(
        grey,
        content,
        torch.arange(len(content), device=content.device),
        target,
        start,
        seed=problem.config.seed,
        radius=0.5,
        bounds=(-0.5, 0.5),
        backend=problem.backend,
    )
    return points.double() + (0.5 + 2.0**-25)  # the middle of each of 2^24 parts
