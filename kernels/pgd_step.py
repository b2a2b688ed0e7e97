"""One projected-gradient step of every candidate; see csrc/rows/pgd_step.h."""

# What Triton compiles has no types of Python.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arithmetic import (
    ball_lower,
    ball_upper,
    clip,
    divided,
    finite,
    l1_move,
    l2_slope,
    linf_level,
    number_or_zero,
    penalty_threshold,
    rounded,
    signed_step,
    widened,
)
from .checks import (
    FLOATING,
    LOW_PRECISION,
    check_ball,
    check_dense_rows,
    check_dtype,
    check_index,
    check_rows_like,
    check_separate,
    check_vector,
    require,
    row_elements,
)
from .launch import block_of, launch

NORMS = ("l1", "l2", "linf")


@triton.jit
def _gradient(gradient, i, inside):
    """Usable gradient entries of a row; 0 outside."""
    return finite(widened(tl.load(gradient + i, mask=inside, other=0.0)))


@triton.jit
def _direction(gradient, buffer, scale, decay, i, inside, SCALED: tl.constexpr):
    """Entries of the accumulated direction of a row; the momentum buffer may be None."""
    m = _gradient(gradient, i, inside)
    if SCALED:
        m = tl.where(scale > 0.0, divided(m, scale), 0.0)
    if buffer is not None:
        m = decay * tl.load(buffer + i, mask=inside, other=0.0) + m
    return m


@triton.jit
def _largest(gradient, elements, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    """max |g| of a row."""
    size = tl.zeros([BLOCK], DTYPE)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        g = tl.abs(_gradient(gradient, i, i < elements))
        size = tl.where(g > size, g, size)
    return tl.max(size, 0)


@triton.jit
def _sizes(z, x, gradient, buffer, scale, decay, elements, BLOCK: tl.constexpr):
    """l2 norms of the displacement and of the direction of a row, squared, in float64."""
    size = tl.zeros([BLOCK], tl.float64)
    slope = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < elements
        d = tl.load(z + i, mask=inside, other=0.0) - tl.load(x + i, mask=inside, other=0.0)
        m = _direction(gradient, buffer, scale, decay, i, inside, True)
        size += tl.where(inside, d.to(tl.float64) * d.to(tl.float64), 0.0)
        slope += tl.where(inside, m.to(tl.float64) * m.to(tl.float64), 0.0)
    return tl.sum(size, 0), tl.sum(slope, 0)


@triton.jit
def _level(z, x, gradient, buffer, scale, decay, step, threshold, elements, BLOCK: tl.constexpr):
    """The l_inf level of a row after the step."""
    DTYPE: tl.constexpr = z.dtype.element_ty
    away = tl.zeros([BLOCK], DTYPE)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < elements
        d = tl.load(z + i, mask=inside, other=0.0) - tl.load(x + i, mask=inside, other=0.0)
        away = tl.where(tl.abs(d) > away, tl.abs(d), away)
    level = tl.max(away, 0)
    near = step * 0.0625  # entries on the level differ from it by rounding
    on_level = tl.zeros([BLOCK], tl.float64)
    passing = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < elements
        d = tl.load(z + i, mask=inside, other=0.0) - tl.load(x + i, mask=inside, other=0.0)
        m = _direction(gradient, buffer, scale, decay, i, inside, True)
        outward = signed_step(d, m)
        weight = tl.where(inside, tl.abs(m).to(tl.float64), 0.0)
        on_level += tl.where(outward + near >= level, weight, 0.0)
        passing += tl.where(outward + step > level, weight, 0.0)
    on_level_sum = tl.sum(on_level, 0).to(DTYPE)
    passing_sum = tl.sum(passing, 0).to(DTYPE)
    return linf_level(level, step, on_level_sum, passing_sum, threshold)


@triton.jit
def step_kernel(
    point,
    gradient,
    image,
    image_index,
    step_size,
    momentum_buffer,  # this and all that follow may be None
    penalty,
    value,
    best,
    best_value,
    distance,
    low_copy,
    previous,
    motion,
    reach,
    elements,
    radius: tl.float64,
    lower: tl.float64,
    upper: tl.float64,
    momentum: tl.float64,
    distance_weight: tl.float64,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One candidate a program."""
    DTYPE: tl.constexpr = point.dtype.element_ty
    b = tl.program_id(0).to(tl.int64)
    offset = b * elements
    z = point + offset
    g = gradient + offset
    x = image + tl.load(image_index + b) * elements
    step = number_or_zero(tl.load(step_size + b))
    ball = tl.full((), radius, DTYPE)
    low = tl.full((), lower, DTYPE)
    high = tl.full((), upper, DTYPE)
    decay = tl.full((), momentum, DTYPE)
    weight = tl.full((), distance_weight, DTYPE)
    buffer = None
    if momentum_buffer is not None:
        buffer = momentum_buffer + offset
    SCALED: tl.constexpr = momentum_buffer is not None or penalty is not None

    kept = 0  # elements of the old point that become those of the best
    if best is not None:
        score = tl.load(value + b)
        if distance is not None:
            score = score - weight * tl.load(distance + b)
        held = tl.load(best_value + b)
        kept = tl.where(score > held, elements, 0)
        tl.debug_barrier()  # every thread has read what one of them now writes
        tl.store(best_value + b, tl.where(score > held, score, held))

    scale = tl.full((), 0.0, DTYPE)
    if SCALED:
        scale = _largest(g, elements, DTYPE, BLOCK)
    threshold = tl.full((), 0.0, DTYPE)
    level = tl.full((), 0.0, DTYPE)
    size = tl.full((), 0.0, DTYPE)
    slope = tl.full((), 0.0, DTYPE)
    if penalty is not None:
        threshold = penalty_threshold(tl.load(penalty + b), scale)
        if NORM == "l2":
            size_squared, slope_squared = _sizes(z, x, g, buffer, scale, decay, elements, BLOCK)
            size = tl.sqrt(size_squared).to(DTYPE)
            slope = tl.sqrt(slope_squared).to(DTYPE)
        elif NORM == "linf":
            level = _level(z, x, g, buffer, scale, decay, step, threshold, elements, BLOCK)

    farthest = tl.zeros([BLOCK], DTYPE)
    total = tl.zeros([BLOCK], tl.float64)
    gain = tl.zeros([BLOCK], tl.float64)
    changed = tl.zeros([BLOCK], tl.int32)
    elsewhere = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < elements
        old = tl.load(z + i, mask=inside, other=0.0)
        centre = tl.load(x + i, mask=inside, other=0.0)
        m = _direction(g, buffer, scale, decay, i, inside, SCALED)
        if penalty is None:
            moved = old + signed_step(step, m)
        elif NORM == "l1":
            moved = centre + l1_move(old - centre, m, step, threshold)
        elif NORM == "l2":
            moved = old + signed_step(step, l2_slope(old - centre, m, size, slope, threshold))
        else:
            moved = centre + clip((old - centre) + signed_step(step, m), -level, level)
        least = ball_lower(centre, ball, low)
        most = ball_upper(centre, ball, high)
        placed = clip(moved, least, most)
        if reach is not None:
            slopes = _gradient(g, i, inside).to(tl.float64)
            end = tl.where(slopes > 0.0, most, least).to(tl.float64)
            gain += tl.where(inside, slopes * (end - old.to(tl.float64)), 0.0)
        changed = tl.where(inside & (placed != old), 1, changed)
        away = tl.where(inside, tl.abs(placed - centre), 0.0)
        farthest = tl.where(away > farthest, away, farthest)
        wide = away.to(tl.float64)
        if NORM == "l2":
            total += wide * wide
        else:
            total += wide
        if best is not None:
            tl.store(best + offset + i, old, mask=i < kept)
        if momentum_buffer is not None:
            tl.store(buffer + i, m, mask=inside)
        if previous is not None:
            before = tl.load(previous + offset + i, mask=inside, other=0.0)
            elsewhere = tl.where(inside & (placed != before), 1, elsewhere)
            tl.debug_barrier()  # loads and stores may divide a block among threads differently
            tl.store(previous + offset + i, old, mask=inside)
        if low_copy is not None:
            low_dtype: tl.constexpr = low_copy.dtype.element_ty
            tl.store(low_copy + offset + i, rounded(placed, low_dtype), mask=inside)
        tl.store(z + i, placed, mask=inside)
    if distance is not None:
        if NORM == "linf":
            tl.store(distance + b, tl.max(farthest, 0))
        elif NORM == "l2":
            tl.store(distance + b, tl.sqrt(tl.sum(total, 0)).to(DTYPE))
        else:
            tl.store(distance + b, tl.sum(total, 0).to(DTYPE))
    if reach is not None:
        tl.store(reach + b, tl.sum(gain, 0).to(DTYPE))
    if motion is not None:
        told = tl.where(tl.max(changed, 0) > 0, 0, 1)
        if previous is not None:
            told = tl.where((told == 0) & (tl.max(elsewhere, 0) == 0), 2, told)
        tl.store(motion + b, told.to(tl.uint8))


def pgd_step_(
    point: Tensor,  # [B, *image]
    gradient: Tensor,  # [B, *image]
    image: Tensor,  # [N, *image]
    image_index: Tensor,  # [B] int64
    step_size: Tensor,  # [B]
    radius: float,
    lower: float,
    upper: float,
    momentum_buffer: Tensor | None,  # [B, *image]
    momentum: float,
    penalty: Tensor | None,  # [B]
    norm: str,
    value: Tensor | None,  # [B]
    distance_weight: float,
    best: Tensor | None,  # [B, *image]
    best_value: Tensor | None,  # [B]
    distance: Tensor | None,  # [B]
    copy: Tensor | None,  # [B, *image]
    previous: Tensor | None,  # [B, *image]
    motion: Tensor | None,  # [B] uint8
    reach: Tensor | None,  # [B]
) -> None:
    """See `hcnn_fast.ops.pgd_step_`."""
    check_dense_rows(point, "point")
    check_dtype(point, "point", *FLOATING)
    rows, dtype = len(point), point.dtype
    slopes = (dtype,) if dtype == torch.float64 else (dtype, *LOW_PRECISION)
    check_rows_like(gradient, "gradient", rows, point)
    check_dtype(gradient, "gradient", *slopes)
    check_dense_rows(image, "image")
    check_rows_like(image, "image", len(image), point)
    check_dtype(image, "image", dtype)
    check_vector(image_index, "image_index", rows, torch.int64, point)
    check_index(image_index, "image_index", len(image))
    check_vector(step_size, "step_size", rows, dtype, point)
    check_ball(radius, lower, upper)
    require(norm in NORMS, f"norm is {norm!r}, expected l1, l2 or linf")
    of_rows = {
        "momentum_buffer": (momentum_buffer, (dtype,)),
        "best": (best, (dtype,)),
        "copy": (copy, LOW_PRECISION),
        "previous": (previous, (dtype,)),
    }
    for name, (tensor, dtypes) in of_rows.items():
        if tensor is not None:
            check_rows_like(tensor, name, rows, point)
            check_dtype(tensor, name, *dtypes)
    of_numbers = {
        "best_value": (best_value, dtype),
        "distance": (distance, dtype),
        "motion": (motion, torch.uint8),
        "penalty": (penalty, dtype),
        "reach": (reach, dtype),
        "value": (value, dtype),
    }
    for name, (tensor, expected) in of_numbers.items():
        if tensor is not None:
            check_vector(tensor, name, rows, expected, point)
    written = {
        "point": point,
        "momentum_buffer": momentum_buffer,
        "best": best,
        "best_value": best_value,
        "distance": distance,
        "copy": copy,
        "previous": previous,
        "motion": motion,
        "reach": reach,
    }
    read = {
        "gradient": gradient,
        "image": image,
        "image_index": image_index,
        "step_size": step_size,
        "penalty": penalty,
        "value": value,
    }
    check_separate({**written, **read}, written=tuple(written))
    require(
        (best is None) == (best_value is None) and (best is None or value is not None),
        "best needs best_value and value",
    )
    require(previous is None or motion is not None, "previous needs motion")
    elements = row_elements(point)
    launch(
        step_kernel,
        point,
        rows,
        point,
        gradient,
        image,
        image_index,
        step_size,
        momentum_buffer,
        penalty,
        value,
        best,
        best_value,
        distance,
        copy,
        previous,
        motion,
        reach,
        elements,
        radius,
        lower,
        upper,
        momentum,
        distance_weight,
        NORM=norm,
        BLOCK=block_of(elements),
    )
