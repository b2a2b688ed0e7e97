"""RayS: the l_inf distance to another answer, from labels alone (Chen and Gu 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.attacks.black_box import run_in_blocks
from hcnn_fast.attacks.block import Block, Rows, column
from hcnn_fast.attacks.checks import check_count, check_number
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.target import Judgement, Target
from hcnn_fast.config import BackendName, SearchConfig
from hcnn_fast.engine.inputs import Classifier

REJECTED = -1  # an answer that is no success, whatever y is


def rays(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    queries: int = 5000,
    tolerance: float | None = None,
    starts: int = 1,
    seed: int = 0,
    stop_at_success: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    backend: BackendName = "auto",
    batch_size: int | None = None,
) -> AttackResult:
    """Find for each image the smallest l_inf step to a wrong answer, asking for labels alone.

    A ray leads from x to the corners of the bounds along signs, one per entry. All signs are turned
    over, then halves of them, quarters, down to single entries, and again from the start; where the
    answer on the turned ray is wrong nearer than the nearest so far, bisection finds where it turns
    wrong. No image waits for another's bisection: every query is a step of its own search.

    A success is a wrong answer within `radius`. Where the smallest step is longer, the point
    returned lies on its ray at the border of the ball.

    The model may reject: a callable that returns integer labels [N], such as
    `lambda z: defense.predict(z).label`, answers -1 for a rejected image. A rejected point is not a
    success; only an accepted wrong answer is. The confidence of such a model is unknown: NaN.

    Args:
        model: nn.Module or callable giving logits [N, C], of which only the largest is looked at,
            or a callable giving labels [N] int64, -1 for rejected; left as it is.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        radius: l_inf radius of a success, in input units.
        queries: of each start, after the one at x; a last one judges the point returned.
        tolerance: radii closer than this are not told apart; None: radius / 100.
        starts: restarts per image; the first ray leads up in every entry, the others are random.
        seed: seed of the random rays, which depend on it and on the image alone.
        stop_at_success: ask no more about an image once the model is wrong within `radius`.
        bounds: smallest and largest value that an input may take.
        backend: implementation of the random numbers.
        batch_size: largest number of images that pass the model at once; None: 512.

    Returns:
        The result's `value` is minus the smallest radius found (-inf: none), whether or not it is
        at most `radius`; it is an upper bound on the distance to the decision boundary.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
        RuntimeError: the chosen backend cannot run, or memory does not suffice for one image.
    """
    check_count("queries", queries)
    if tolerance is not None:
        check_number("tolerance", tolerance, 0.0, torch.inf)
    config = SearchConfig.mcn(
        radius, starts=starts, seed=seed, bounds=bounds, backend=backend, batch_size=batch_size
    )
    gap = radius / 100.0 if tolerance is None else tolerance

    def attack(block: Block) -> None:
        for attempt in range(starts):
            block.drop_successes()
            if not len(block):
                return
            _search(block, attempt, queries, config, gap)
        if len(block):
            _judge_found(block, config)

    return run_in_blocks(
        model,
        x,
        y,
        config,
        attack,
        objective="confidence",
        judge_images=_judge_images,
        stop_at_success=stop_at_success,
    )


@dataclass
class _Rays(Rows):
    """Where the search of every image stands."""

    up: Tensor  # [n, D] bool, signs of the best ray
    least: Tensor  # [n], smallest radius found in this start
    level: Tensor  # [n] int64, blocks of about D / 2^level entries are turned over; -1: none
    turn: Tensor  # [n] int64, which of them
    bisecting: Tensor  # [n] bool
    turned: Tensor  # [n, D] bool, signs of the ray that is bisected
    low: Tensor  # [n], not wrong there
    high: Tensor  # [n], wrong there


def _judge_images(target: Target, x: Tensor, y: Tensor) -> Judgement:
    wrong, confidence = _ask(target, x, y)
    target.check(x, y)
    value = torch.where(wrong, 0.0, -torch.inf).to(x.dtype)
    return Judgement(value=value, wrong=wrong, confidence=confidence)


def _ask(target: Target, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the answer is accepted and wrong, and its confidence."""
    label, confidence = target.verdict(z)
    return (label != y) & (label != REJECTED), confidence


def _search(block: Block, attempt: int, queries: int, config: SearchConfig, gap: float) -> None:
    """One start from a ray of its own."""
    low, high = config.bounds
    rays = _first_rays(block, attempt)
    for query in range(queries):
        rows = block.drop_successes() if query else None
        if rows is not None:
            rays = rays.take(rows)
        if not len(block):
            return
        images = block.images
        up = torch.where(rays.bisecting[:, None], rays.turned, _turn_over(rays))  # [n, D]
        nearer = torch.maximum(rays.least - gap, 0.5 * rays.least).clamp_max(high - low)
        length = torch.where(rays.bisecting, 0.5 * (rays.low + rays.high), nearer)  # [n]
        step = column(length, images.x)
        asked = torch.where(up.view_as(images.x), images.x + step, images.x - step)
        asked = asked.clamp(low, high)
        wrong, confidence = _ask(block.target, asked, images.y)
        judged = Judgement(
            value=torch.where(wrong, -length, -torch.inf),
            wrong=wrong & (length <= config.radius),
            confidence=confidence,
        )
        block.best.improve(block.clip(asked), judged, attempt)
        rays = _after(rays, up, length, wrong, gap)


def _first_rays(block: Block, attempt: int) -> _Rays:
    x = block.images.x.flatten(1)
    up = torch.ones_like(x, dtype=torch.bool)
    if attempt:
        up = block.uniform(x.shape[1], attempt=attempt, stream=0, draw=0) < 0.5
    zero, none = torch.zeros_like(x[:, 0]), torch.zeros_like(block.images.y)
    return _Rays(
        up=up,
        least=zero + torch.inf,
        level=none - 1,
        turn=none,
        bisecting=torch.zeros_like(up[:, 0]),
        turned=up,
        low=zero,
        high=zero,
    )


def _block_size(level: Tensor, entries: int) -> Tensor:  # [n] -> [n]
    """Entries that are turned over together, ceil(D / 2^level); all at level -1, before level 0."""
    blocks = torch.bitwise_left_shift(torch.ones_like(level), level.clamp_min(0))
    return torch.div(entries + blocks - 1, blocks, rounding_mode="floor")


def _turn_over(rays: _Rays) -> Tensor:  # [n, D] bool
    """The best rays with the signs of one block turned over; at level -1 as they are."""
    entries = rays.up.shape[1]
    size = _block_size(rays.level, entries)
    first = (rays.turn * size)[:, None]  # [n, 1]
    at = torch.arange(entries, device=first.device)
    inside = (at >= first) & (at < first + size[:, None]) & (rays.level >= 0)[:, None]
    return rays.up ^ inside


def _after(rays: _Rays, up: Tensor, length: Tensor, wrong: Tensor, gap: float) -> _Rays:
    """Where the search stands once it is known whether `up` is wrong at `length`."""
    high = torch.where(wrong, length, rays.high)
    low = torch.where(wrong, torch.where(rays.bisecting, rays.low, 0.0), length)
    middle = 0.5 * (low + high)  # not between them where the gap is below their rounding
    narrow = (high - low <= gap) | (middle <= low) | (middle >= high)
    bisecting = torch.where(rays.bisecting, ~narrow, wrong & ~narrow)
    level, turn = _next_block(rays)
    # no question goes beyond the nearest wrong answer so far: a wrong one is nearer
    return _Rays(
        up=torch.where(wrong[:, None], up, rays.up),
        least=torch.where(wrong, length, rays.least),
        level=torch.where(bisecting, rays.level, level),
        turn=torch.where(bisecting, rays.turn, turn),
        bisecting=bisecting,
        turned=up,
        low=low,
        high=high,
    )


def _next_block(rays: _Rays) -> tuple[Tensor, Tensor]:  # [n], [n]
    """The block after this one; after the last of the level the first, half as large, of the next.

    After the single entries it is all of them again.
    """
    entries = rays.up.shape[1]
    size = _block_size(rays.level, entries)
    last = ((rays.turn + 1) * size >= entries) | (rays.level < 0)
    deeper = torch.where((size == 1) & (rays.level >= 0), 0, rays.level + 1)
    return torch.where(last, deeper, rays.level), torch.where(last, 0, rays.turn + 1)


def _judge_found(block: Block, config: SearchConfig) -> None:
    """Success and confidence of the best points: those beyond the ball were moved to its border."""
    best = block.best
    wrong, confidence = _ask(block.target, best.point, block.images.y)
    best.wrong, best.confidence = wrong, confidence
    within = best.value.clamp_min(-config.radius)
    best.value = torch.where(wrong, within, best.value)
