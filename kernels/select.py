"""The winner of an image: the larger value, of equals the more certain, of equals the first."""

# What Triton compiles has no types of Python.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arithmetic import rankable
from .checks import (
    FLOATING,
    LOW_PRECISION,
    check_defined,
    check_dense_rows,
    check_device,
    check_dtype,
    check_matrix,
    check_rows_like,
    check_separate,
    check_vector,
    require,
    row_elements,
)
from .launch import block_of, launch


@triton.jit
def _better(value, certainty, than_value, than_certainty):
    """Whether (value, certainty) is strictly the larger pair."""
    return (value > than_value) | ((value == than_value) & (certainty > than_certainty))


@triton.jit
def select_kernel(
    point,
    logits,
    value,
    certainty,
    row,
    winner,
    best_point,
    prediction,
    labels,
    starts,
    classes,
    elements,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One image a program; each lane keeps the best of every LANES-th label."""
    DTYPE: tl.constexpr = value.dtype.element_ty
    n = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    most = tl.full([LANES], float("-inf"), DTYPE)
    surest = tl.full([LANES], float("-inf"), DTYPE)
    at_label = lane
    at_row = tl.zeros([LANES], tl.int64)
    for begin in range(0, labels, LANES):
        label = begin + lane
        inside = label < labels
        first = (n * labels + label) * starts
        top = tl.full([LANES], float("-inf"), DTYPE)
        sure = tl.full([LANES], float("-inf"), DTYPE)
        best = first
        for s in range(0, starts):
            v = rankable(tl.load(value + first + s, mask=inside, other=float("-inf")))
            c = rankable(tl.load(certainty + first + s, mask=inside, other=float("-inf")))
            better = _better(v, c, top, sure)
            top = tl.where(better, v, top)
            sure = tl.where(better, c, sure)
            best = tl.where(better, first + s, best)
        tl.store(row + n * labels + label, best, mask=inside)
        better = (label == lane) | (inside & _better(top, sure, most, surest))
        most = tl.where(better, top, most)
        surest = tl.where(better, sure, surest)
        at_label = tl.where(better, label, at_label)
        at_row = tl.where(better, best, at_row)
    tied = (most == tl.max(most, 0)) & (lane < labels)
    tied = tied & (surest == tl.max(tl.where(tied, surest, float("-inf")), 0))
    won = tl.min(tl.where(tied, at_label, 2147483647), 0)
    chosen = tl.sum(tl.where(at_label == won, at_row, 0), 0)
    tl.store(winner + n, won.to(tl.int64))

    entry = tl.arange(0, BLOCK)
    largest = rankable(tl.load(logits + chosen * classes + entry, mask=entry < classes, other=0.0))
    largest = tl.where(entry < classes, largest, float("-inf"))
    at_class = entry
    for begin in range(BLOCK, classes, BLOCK):
        k = begin + entry
        z = rankable(tl.load(logits + chosen * classes + k, mask=k < classes, other=0.0))
        larger = (k < classes) & (z > largest)
        largest = tl.where(larger, z, largest)
        at_class = tl.where(larger, k, at_class)
    tied = (largest == tl.max(largest, 0)) & (entry < classes)
    predicted = tl.min(tl.where(tied, at_class, 2147483647), 0)
    tl.store(prediction + n, predicted.to(tl.int64))

    for begin in range(0, elements, BLOCK):
        i = begin + entry
        z = tl.load(point + chosen * elements + i, mask=i < elements, other=0.0)
        tl.store(best_point + n * elements + i, z, mask=i < elements)


def select(
    point: Tensor,  # [n * L * S, *image]
    logits: Tensor,  # [n * L * S, C]
    value: Tensor,  # [n * L * S]
    certainty: Tensor,  # [n * L * S]
    starts: int,
    row: Tensor,  # [n, L] int64
    winner: Tensor,  # [n] int64
    best_point: Tensor,  # [n, *image]
    prediction: Tensor,  # [n] int64
) -> None:
    """See `hcnn_fast.ops.select`."""
    check_dense_rows(point, "point")
    check_dtype(point, "point", *FLOATING)
    check_device(row, "row", point)
    check_dtype(row, "row", torch.int64)
    check_matrix(row, "row", len(row) if row.ndim else 0, point)
    images, labels = row.shape
    require(starts >= 1, f"starts is {starts}, expected at least 1")
    rows = len(point)
    require(rows == images * labels * starts, f"point has {rows} rows, expected n * L * starts")
    check_matrix(logits, "logits", rows, point)
    check_dtype(logits, "logits", *FLOATING, *LOW_PRECISION)
    check_defined(value, "value")
    check_dtype(value, "value", *FLOATING)
    check_vector(value, "value", rows, value.dtype, point)
    check_vector(certainty, "certainty", rows, value.dtype, point)
    check_vector(winner, "winner", images, torch.int64, point)
    check_vector(prediction, "prediction", images, torch.int64, point)
    check_rows_like(best_point, "best_point", images, point)
    check_dtype(best_point, "best_point", point.dtype)
    written = {
        "row": row,
        "winner": winner,
        "best_point": best_point,
        "prediction": prediction,
    }
    read = {"point": point, "logits": logits, "value": value, "certainty": certainty}
    check_separate({**written, **read}, written=tuple(written))
    classes, elements = logits.shape[1], row_elements(point)
    launch(
        select_kernel,
        point,
        images,
        point,
        logits,
        value,
        certainty,
        row,
        winner,
        best_point,
        prediction,
        labels,
        starts,
        classes,
        elements,
        LANES=block_of(labels),
        BLOCK=block_of(max(classes, elements)),
    )
