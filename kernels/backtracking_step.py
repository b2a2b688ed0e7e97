"""One step of backtracking ascent of every candidate; see csrc/rows/backtracking_step.h."""

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
    number_or_zero,
    signed_step,
)
from .checks import (
    FLOATING,
    check_ball,
    check_defined,
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

DIRECTIONS = ("sign", "gradient")
SHORTEST_STEP = tl.constexpr(1e-20)


@triton.jit
def backtracking_kernel(
    proposal,
    gradient,
    reached,
    point,
    value,
    uphill,
    average,
    step_size,
    image,
    image_index,
    best,  # this and the next may be None
    best_value,
    elements,
    radius: tl.float64,
    lower: tl.float64,
    upper: tl.float64,
    momentum: tl.float64,
    fresh: tl.float64,
    backtracking: tl.float64,
    BACKTRACKS: tl.constexpr,
    SIGNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One candidate a program."""
    DTYPE: tl.constexpr = proposal.dtype.element_ty
    b = tl.program_id(0).to(tl.int64)
    offset = b * elements
    x = image + tl.load(image_index + b) * elements
    ball = tl.full((), radius, DTYPE)
    low = tl.full((), lower, DTYPE)
    high = tl.full((), upper, DTYPE)
    decay = tl.full((), momentum, DTYPE)
    share = tl.full((), fresh, DTYPE)

    there = tl.load(reached + b)
    here = tl.load(value + b)
    step = tl.load(step_size + b)
    kept = 0  # elements of the proposal that become those of the best
    taken = there == there
    if BACKTRACKS:
        taken = there >= here
        shorter = divided(step, tl.full((), backtracking, DTYPE))
        shortest = tl.full((), SHORTEST_STEP, DTYPE)
        shorter = tl.where(shorter < shortest, shortest, shorter)
        step = tl.where(taken, step, shorter)
        there = tl.where(taken, there, here)
    if best is not None:
        held = tl.load(best_value + b)
        better = taken & (there > held)
        kept = tl.where(better, elements, 0)
    tl.debug_barrier()  # every thread has read what one of them now writes
    tl.store(value + b, there)
    tl.store(step_size + b, step)
    if best is not None:
        tl.store(best_value + b, tl.where(better, there, held))

    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < elements
        z = tl.load(proposal + offset + i, mask=inside, other=0.0)
        g = tl.load(gradient + offset + i, mask=inside, other=0.0)
        u = signed_step(tl.full((), 1.0, DTYPE), g) if SIGNS else finite(g)
        if best is not None:
            tl.store(best + offset + i, z, mask=i < kept)
        if BACKTRACKS:
            z = tl.where(taken, z, tl.load(point + offset + i, mask=inside, other=0.0))
            u = tl.where(taken, u, tl.load(uphill + offset + i, mask=inside, other=0.0))
        m = decay * tl.load(average + offset + i, mask=inside, other=0.0) + share * u
        centre = tl.load(x + i, mask=inside, other=0.0)
        moved = z + number_or_zero(step * m)
        placed = clip(moved, ball_lower(centre, ball, low), ball_upper(centre, ball, high))
        tl.debug_barrier()  # loads and stores may divide a block among threads differently
        tl.store(point + offset + i, z, mask=inside)
        tl.store(uphill + offset + i, u, mask=inside)
        tl.store(average + offset + i, m, mask=inside)
        tl.store(proposal + offset + i, placed, mask=inside)


def backtracking_step_(
    proposal: Tensor,  # [B, *image]
    gradient: Tensor,  # [B, *image]
    reached: Tensor,  # [B]
    point: Tensor,  # [B, *image]
    value: Tensor,  # [B]
    uphill: Tensor,  # [B, *image]
    average: Tensor,  # [B, *image]
    step_size: Tensor,  # [B]
    image: Tensor,  # [N, *image]
    image_index: Tensor,  # [B] int64
    radius: float,
    lower: float,
    upper: float,
    momentum: float,
    backtracking: float | None,
    direction: str,
    best: Tensor | None,  # [B, *image]
    best_value: Tensor | None,  # [B]
) -> None:
    """See `hcnn_fast.ops.backtracking_step_`."""
    check_dense_rows(proposal, "proposal")
    check_dtype(proposal, "proposal", *FLOATING)
    rows, dtype = len(proposal), proposal.dtype
    require((best is None) == (best_value is None), "best goes with best_value")
    check_defined(image, "image")
    require(image.ndim >= 1, "image has no dimension, expected [N, *image]")
    of_rows = {
        "point": point,
        "uphill": uphill,
        "average": average,
        "gradient": gradient,
        "image": image,
    }
    of_numbers = {
        "value": value,
        "step_size": step_size,
        "reached": reached,
    }
    if best is not None and best_value is not None:
        of_rows["best"], of_numbers["best_value"] = best, best_value
    for name, tensor in of_rows.items():
        check_rows_like(tensor, name, len(image) if name == "image" else rows, proposal)
        check_dtype(tensor, name, dtype)
    for name, tensor in of_numbers.items():
        check_vector(tensor, name, rows, dtype, proposal)
    check_vector(image_index, "image_index", rows, torch.int64, proposal)
    read = {"gradient", "reached", "image", "image_index"}
    tensors = {"proposal": proposal, **of_rows, **of_numbers, "image_index": image_index}
    check_separate(tensors, written=[name for name in tensors if name not in read])
    check_index(image_index, "image_index", len(image))
    check_ball(radius, lower, upper)
    require(
        backtracking is None or backtracking >= 1.0,
        f"backtracking is {backtracking}, expected a number >= 1 or none",
    )
    require(direction in DIRECTIONS, f"direction is {direction!r}, expected sign or gradient")
    elements = row_elements(proposal)
    launch(
        backtracking_kernel,
        proposal,
        rows,
        proposal,
        gradient,
        reached,
        point,
        value,
        uphill,
        average,
        step_size,
        image,
        image_index,
        best,
        best_value,
        elements,
        radius,
        lower,
        upper,
        momentum,
        1.0 - momentum,
        1.0 if backtracking is None else backtracking,
        BACKTRACKS=backtracking is not None,
        SIGNS=direction == "sign",
        BLOCK=block_of(elements),
    )
