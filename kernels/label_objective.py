"""The objective of each row of logits and its gradient, in float64; see csrc/rows."""

# What Triton compiles has no types of Python.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arithmetic import log_sigmoid, rounded, sigmoid, widened
from .checks import (
    FLOATING,
    LOW_PRECISION,
    check_defined,
    check_dtype,
    check_index,
    check_matrix,
    check_rows_like,
    check_separate,
    check_vector,
    require,
)
from .launch import block_of, launch

KINDS = (
    "probability",
    "log_probability",
    "cross_entropy",
    "log_odds",
    "margin",
    "negative_entropy",
)


@triton.jit
def _entries(logits, k, inside):
    """Logits of a row in float64; 0 outside."""
    return widened(tl.load(logits + k, mask=inside, other=0.0)).to(tl.float64)


@triton.jit
def _write(gradient, k, inside, slope):
    """Gradient of a row, rounded as its tensor asks."""
    tl.store(gradient + k, rounded(slope, gradient.dtype.element_ty), mask=inside)


@triton.jit
def _first(at, classes):
    """The least of the positions held; `classes` where there is none."""
    return tl.min(tl.minimum(at, classes), 0)


@triton.jit
def _label_row(logits, gradient, label, classes, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Objective of the label against its rivals."""
    own = widened(tl.load(logits + label)).to(tl.float64)
    largest = tl.full([BLOCK], float("-inf"), tl.float64)
    not_a_number = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, classes, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        z = _entries(logits, k, k < classes)
        rivals = (k < classes) & (k != label)
        largest = tl.where(rivals & (z > largest), z, largest)
        not_a_number = tl.where(z == z, not_a_number, 1)
    rival = tl.max(largest, 0)
    if KIND == "margin":
        at = tl.full([BLOCK], 2147483647, tl.int32)
        for begin in range(0, classes, BLOCK):
            k = begin + tl.arange(0, BLOCK)
            z = _entries(logits, k, k < classes)
            top = (k < classes) & (k != label) & (z == rival)
            at = tl.minimum(at, tl.where(top, k, 2147483647))
        first = _first(at, classes)
        for begin in range(0, classes, BLOCK):
            k = begin + tl.arange(0, BLOCK)
            slope = tl.where(k == label, 1.0, tl.where(k == first, -1.0, 0.0))
            _write(gradient, k, k < classes, tl.where(classes > 1, slope, 0.0).to(tl.float64))
        value = tl.where(tl.max(not_a_number, 0) > 0, float("nan"), own - rival)
    else:
        sums = tl.zeros([BLOCK], tl.float64)
        for begin in range(0, classes, BLOCK):
            k = begin + tl.arange(0, BLOCK)
            z = _entries(logits, k, k < classes)
            sums += tl.where((k < classes) & (k != label), tl.exp(z - rival), 0.0)
        total = tl.sum(sums, 0)
        odds = (own - rival) - tl.log(total)
        if KIND == "log_probability":
            value = log_sigmoid(odds)
            factor = sigmoid(-odds)
        elif KIND == "cross_entropy":
            value = -log_sigmoid(odds)
            factor = -sigmoid(-odds)
        elif KIND == "probability":
            value = sigmoid(odds)
            factor = value * sigmoid(-odds)
        else:
            value = odds
            factor = tl.full((), 1.0, tl.float64)
        share = -factor / total
        for begin in range(0, classes, BLOCK):
            k = begin + tl.arange(0, BLOCK)
            z = _entries(logits, k, k < classes)
            slope = tl.where(k == label, factor, share * tl.exp(z - rival))
            _write(gradient, k, k < classes, tl.where(classes > 1, slope, 0.0))
    return value


@triton.jit
def _entropy_row(logits, gradient, order, classes, ORDER: tl.constexpr, BLOCK: tl.constexpr):
    """-H of a row: Shannon, Renyi, and Renyi's limits of the order."""
    largest = tl.full([BLOCK], float("-inf"), tl.float64)
    for begin in range(0, classes, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        z = _entries(logits, k, k < classes)
        largest = tl.where((k < classes) & (z > largest), z, largest)
    top = tl.max(largest, 0)
    sums = tl.zeros([BLOCK], tl.float64)
    seconds = tl.zeros([BLOCK], tl.float64)  # what an order sums besides
    at = tl.full([BLOCK], 2147483647, tl.int32)
    for begin in range(0, classes, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        inside = k < classes
        z = _entries(logits, k, inside)
        raised = tl.exp(z - top)
        sums += tl.where(inside, raised, 0.0)
        if ORDER == "zero":
            seconds += tl.where(inside & (raised > 0.0), 1.0, 0.0)
        elif ORDER == "infinite":
            at = tl.minimum(at, tl.where(inside & (z == top), k, 2147483647))
        elif ORDER == "renyi":
            seconds += tl.where(inside, tl.exp(order * (z - top)), 0.0)
    total = tl.sum(sums, 0)
    log_total = tl.log(total)
    if ORDER == "shannon":
        for begin in range(0, classes, BLOCK):
            k = begin + tl.arange(0, BLOCK)
            z = _entries(logits, k, k < classes)
            f = tl.where(k < classes, tl.exp(z - top) / total, 0.0)
            seconds += tl.where(f > 0.0, f * (z - top - log_total), f)
    second = tl.sum(seconds, 0)
    first = _first(at, classes)
    for begin in range(0, classes, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        z = _entries(logits, k, k < classes)
        f = tl.exp(z - top) / total
        if ORDER == "shannon":
            slope = tl.where(f > 0.0, f * (z - top - log_total - second), f)
        elif ORDER == "zero":
            slope = tl.zeros_like(f)
        elif ORDER == "infinite":
            slope = tl.where(k == first, 1.0, 0.0) - f
        else:
            slope = order / (order - 1.0) * (tl.exp(order * (z - top)) / second - f)
        _write(gradient, k, k < classes, slope)
    if ORDER == "shannon":
        value = second
    elif ORDER == "zero":
        value = -tl.log(second + (total - total))  # NaN for a row that is no number
    elif ORDER == "infinite":
        value = -log_total
    else:
        value = (tl.log(second) - order * log_total) / (order - 1.0)
    return value


@triton.jit
def objective_kernel(
    logits,
    labels,
    value,
    gradient,
    classes,
    order: tl.float64,
    KIND: tl.constexpr,
    ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of logits a program."""
    b = tl.program_id(0).to(tl.int64)
    z = logits + b * classes
    slope = gradient + b * classes
    if KIND == "negative_entropy":
        wide_order = tl.full((), order, tl.float64)
        result = _entropy_row(z, slope, wide_order, classes, ORDER, BLOCK)
    else:
        result = _label_row(z, slope, tl.load(labels + b), classes, KIND, BLOCK)
    tl.store(value + b, result.to(value.dtype.element_ty))


def order_case(order: float) -> str:
    """Which formula an order of the entropy takes; Shannon's where Renyi's loses its digits."""
    if abs(order - 1.0) < 1e-7:
        return "shannon"
    return {0.0: "zero", math.inf: "infinite"}.get(order, "renyi")


def label_objective(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B] int64
    kind: str,
    order: float,
    value: Tensor,  # [B]
    gradient: Tensor,  # [B, C]
) -> None:
    """See `hcnn_fast.ops.label_objective`."""
    check_defined(logits, "logits")
    check_matrix(logits, "logits", len(logits) if logits.ndim else 0, logits)
    check_dtype(logits, "logits", *FLOATING, *LOW_PRECISION)
    rows, classes = logits.shape
    check_vector(labels, "labels", rows, torch.int64, logits)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    check_vector(value, "value", rows, wide, logits)
    check_rows_like(gradient, "gradient", rows, logits)
    check_dtype(gradient, "gradient", logits.dtype)
    require(gradient.is_contiguous(), "gradient is not contiguous")
    check_separate(
        {"gradient": gradient, "value": value, "logits": logits, "labels": labels},
        written=("gradient", "value"),
    )
    require(kind in KINDS, f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "negative_entropy":
        require(order >= 0.0, f"order is {order:g}, expected a number >= 0")
    else:
        check_index(labels, "labels", classes)
    launch(
        objective_kernel,
        logits,
        rows,
        logits,
        labels,
        value,
        gradient,
        classes,
        order,
        KIND=kind,
        ORDER=order_case(order) if kind == "negative_entropy" else "none",
        BLOCK=block_of(classes),
    )
