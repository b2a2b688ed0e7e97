"""The Square attack in the l_inf ball (Andriushchenko et al. 2020), on any objective."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block, column
from hcnn_fast.attacks.checks import check_count, check_number
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import Objective
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries

STRIPES, WINDOW = range(2)  # random streams


def square(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    queries: int = 5000,
    objective: Objective = "confidence",
    window_share: float = 0.8,
    starts: int = 1,
    seed: int = 0,
    stop_at_success: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Make the model wrong about x within |z - x|_inf <= radius by random square changes.

    From vertical stripes at the corners of the ball, every query moves one square window to a
    corner, drawn for each channel, and stays there if the objective rises. Windows shrink as the
    queries are spent. Images without height and width are taken as one row of pixels.

    No gradient is asked for: a `Defense`, or any other pipeline, is attacked as a whole. The
    objective is the one under attack, not always the margin of logits: for the margin of the values
    that the search of a defence attains pass `objective=value_margin(defense)`.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is, never differentiated.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius in input units.
        queries: of each start, after the one at x itself.
        objective: what rises: "confidence" max_k log F_k over k != y, "margin" max_k Z_k - Z_y, or
            a function of points [B, *image] and labels [B] giving values [B]. The model is then
            asked besides only where the value is the highest so far; both count as queries.
        window_share: share of the image that the first windows cover, p of the paper, which takes
            0.05, as does the evaluation of CCAT; AutoAttack takes 0.8.
        starts: restarts per image.
        seed: seed of the random choices, which depend on it and on the image alone.
        stop_at_success: ask no more about an image once the model is wrong about it.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of images that pass the model at once; None: 512.

    Returns:
        Of all points asked about the best: a success before a failure, then the larger objective.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.
    """
    check_count("queries", queries)
    check_number("window_share", window_share, 0.0, 1.0)
    config = SearchConfig.mcn(
        radius, starts=starts, seed=seed, bounds=bounds, backend=backend, batch_size=batch_size
    )

    def attack(block: Block) -> None:
        for attempt in range(starts):
            _walk(block, attempt, queries, window_share)

    return run_in_blocks(
        model, x, y, config, attack, objective=objective, stop_at_success=stop_at_success
    )


def _walk(block: Block, attempt: int, queries: int, window_share: float) -> None:
    """One start: stripes, then windows."""
    block.drop_successes()
    if not len(block):
        return
    channels, height, width = planes(block.images.x.shape[1:])
    shape = (-1, channels, height, width)
    stripes = block.uniform(channels * width, attempt=attempt, stream=STRIPES, draw=0) < 0.5
    up = stripes.view(-1, channels, 1, width)
    point = _fill(block, up, shape).view(block.images.x.shape)  # [n, *image]
    value = block.judge(point, attempt)  # [n]
    for query in range(1, queries):
        rows = block.drop_successes()
        if rows is not None:
            point, value = point[rows], value[rows]
        if not len(block):
            return
        sides = window_sides(window_share / 2 ** halvings(query, queries), height, width)
        drawn = block.uniform(2 + channels, attempt=attempt, stream=WINDOW, draw=query)
        inside = _windows(drawn[:, :2], sides, (height, width))  # [n, 1, H, W]
        up = (drawn[:, 2:] < 0.5).view(-1, channels, 1, 1)
        still = (_fill(block, up, shape) == point.view(shape)) | ~inside  # [n, C, H, W]
        # a window that is there already: the opposite corner, rather than a query for nothing
        up = up ^ still.flatten(1).all(1).view(-1, 1, 1, 1)
        moved = torch.where(inside, _fill(block, up, shape), point.view(shape)).view(point.shape)
        reached = block.judge(moved, attempt)
        rises = reached > value
        point = torch.where(column(rises, point), moved, point)
        value = torch.where(rises, reached, value)


def planes(image: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of an image: what stands before the last two are channels."""
    height, width = (1, *image)[-2:]
    return math.prod(image[:-2]), height, width


def halvings(query: int, queries: int) -> int:
    """How often the share of the window has been halved at a query."""
    return sum(query * 10_000 > limit * queries for limit in HALVINGS)


def window_sides(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a square window of that share; in one row of pixels, its length."""
    if height == 1:
        return 1, max(1, round(share * width))
    side = round(math.sqrt(share * height * width))
    return min(max(1, side), height), min(max(1, side), width)


def _fill(block: Block, up: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The corners [n, C, H, W] that `up`, bool in a shape that broadcasts to that, asks for."""
    full = up.expand(len(block), *shape[1:])
    return block.corner(full.reshape(block.images.x.shape)).view(shape)


def _windows(
    place: Tensor,  # [n, 2] in [0, 1)
    sides: tuple[int, int],
    image: tuple[int, int],
) -> Tensor:  # [n, 1, H, W] bool
    """Whether a pixel lies in the window of its image, which may be anywhere in it."""
    within = []
    for axis, (side, length) in enumerate(zip(sides, image, strict=True)):
        first = (place[:, axis : axis + 1] * (length - side + 1)).long()  # [n, 1]
        at = torch.arange(length, device=place.device)
        within.append((at >= first) & (at < first + side))  # [n, length]
    return within[0][:, None, :, None] & within[1][:, None, None, :]
