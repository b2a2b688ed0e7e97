"""The hash of an image's values and the points drawn under a key made of it; see csrc/rows."""

# What Triton compiles has no types of Python.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arithmetic import ball_lower, ball_upper, clip, mix, philox, uniform
from .checks import (
    FLOATING,
    check_ball,
    check_defined,
    check_dtype,
    check_index,
    check_rows_like,
    check_separate,
    check_vector,
    require,
    row_elements,
)
from .launch import block_of, launch


@triton.jit
def hash_kernel(image, out, elements, BLOCK: tl.constexpr):
    """One image a program."""
    n = tl.program_id(0).to(tl.int64)
    shares = tl.zeros([BLOCK], tl.uint64)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        x = tl.load(image + n * elements + i, mask=i < elements, other=0.0)
        x = tl.where(x == 0.0, 0.0, x)  # -0.0 becomes 0.0
        if x.dtype == tl.float64:
            bits = x.to(tl.uint64, bitcast=True)
        else:
            bits = x.to(tl.uint32, bitcast=True).to(tl.uint64)
        share = mix(bits + mix(i.to(tl.uint64) + 1))
        shares += tl.where(i < elements, share, 0)
    tl.store(out + n, tl.sum(shares, 0).to(tl.int64))


@triton.jit
def starts_kernel(
    image,
    image_hash,
    image_index,
    label,
    start,
    point,
    seed,
    radius: tl.float64,
    lower: tl.float64,
    upper: tl.float64,
    elements,
    BLOCK: tl.constexpr,
):
    """One candidate a program; a block of 4 * n elements takes n counters."""
    DTYPE: tl.constexpr = point.dtype.element_ty
    b = tl.program_id(0).to(tl.int64)
    at = tl.load(image_index + b)
    start_of_b = tl.load(start + b)
    key = mix(tl.load(image_hash + at).to(tl.uint64) ^ mix(seed.to(tl.uint64)))
    label_word = tl.load(label + b).to(tl.uint32)
    start_word = start_of_b.to(tl.uint32)
    ball = tl.full((), radius, DTYPE)
    low = tl.full((), lower, DTYPE)
    high = tl.full((), upper, DTYPE)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        x = tl.load(image + at * elements + i, mask=i < elements, other=0.0)
        if start_of_b == 0:
            z = clip(x, low, high)
        else:
            counter = (begin // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
            w0, w1, w2, w3 = philox(counter, label_word, start_word, key)
            word = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
            first = ball_lower(x, ball, low)
            last = ball_upper(x, ball, high)
            v = first + uniform(word, DTYPE) * (last - first)
            z = tl.where(v < last, v, last)
        tl.store(point + b * elements + i, z, mask=i < elements)


def content_hash(
    image: Tensor,  # [N, *image]
    out: Tensor,  # [N] int64
) -> None:
    """See `hcnn_fast.ops.content_hash`."""
    check_defined(image, "image")
    require(image.ndim >= 1 and image.is_contiguous(), "image is not a contiguous [N, *image]")
    check_dtype(image, "image", *FLOATING)
    check_vector(out, "out", len(image), torch.int64, image)
    check_separate({"out": out, "image": image}, written=("out",))
    elements = row_elements(image)
    launch(hash_kernel, image, len(image), image, out, elements, BLOCK=block_of(elements))


def random_starts(
    image: Tensor,  # [N, *image]
    image_hash: Tensor,  # [N] int64
    image_index: Tensor,  # [B] int64
    label: Tensor,  # [B] int64
    start: Tensor,  # [B] int64
    seed: int,
    radius: float,
    lower: float,
    upper: float,
    point: Tensor,  # [B, *image]
) -> None:
    """See `hcnn_fast.ops.random_starts`."""
    check_defined(image, "image")
    check_defined(point, "point")
    require(image.ndim >= 1 and image.is_contiguous(), "image is not a contiguous [N, *image]")
    require(point.ndim >= 1 and point.is_contiguous(), "point is not contiguous")
    check_dtype(image, "image", *FLOATING)
    rows = len(point)
    check_rows_like(point, "point", rows, image)
    check_dtype(point, "point", image.dtype)
    check_vector(image_hash, "image_hash", len(image), torch.int64, image)
    vectors = {"image_index": image_index, "label": label, "start": start}
    for name, vector in vectors.items():
        check_vector(vector, name, rows, torch.int64, image)
        check_index(vector, name, len(image) if name == "image_index" else 2**32)
    check_ball(radius, lower, upper)
    check_separate(
        {"point": point, "image": image, "image_hash": image_hash, **vectors}, written=("point",)
    )
    elements = row_elements(image)
    launch(
        starts_kernel,
        image,
        rows,
        image,
        image_hash,
        image_index,
        label,
        start,
        point,
        seed,
        radius,
        lower,
        upper,
        elements,
        BLOCK=max(4, block_of(elements)),
    )
