"""Checks of arguments, as in csrc/checks.h: a message names the argument and what was expected."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64)
LOW_PRECISION = (torch.bfloat16, torch.float16)


def require(condition: bool, message: str) -> None:
    """RuntimeError, as from the compiled operations, where the condition does not hold."""
    if not condition:
        raise RuntimeError(message)


def check_defined(tensor: object, name: str) -> None:
    """An ordinary tensor."""
    require(
        isinstance(tensor, Tensor) and tensor.layout == torch.strided,
        f"{name} is {'None' if tensor is None else type(tensor).__name__}, expected a dense tensor",
    )


def check_dtype(tensor: Tensor, name: str, *expected: torch.dtype) -> None:
    """One of the expected dtypes."""
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in expected)
    require(tensor.dtype in expected, f"{name} has scalar type {tensor.dtype}, expected {names}")


def check_device(tensor: Tensor, name: str, like: Tensor) -> None:
    """A tensor where the first argument is."""
    check_defined(tensor, name)
    require(
        tensor.device == like.device,
        f"{name} is on device {tensor.device}, expected the device of the first argument",
    )


def check_vector(tensor: Tensor, name: str, rows: int, dtype: torch.dtype, like: Tensor) -> None:
    """A contiguous vector of `rows` entries."""
    check_device(tensor, name, like)
    check_dtype(tensor, name, dtype)
    require(
        tensor.ndim == 1 and len(tensor) == rows and tensor.is_contiguous(),
        f"{name} has shape {list(tensor.shape)}, expected a contiguous [{rows}]",
    )


def row_elements(tensor: Tensor) -> int:
    """Entries of one row."""
    return tensor.shape[1:].numel()


def check_dense_rows(tensor: Tensor, name: str) -> None:
    """Rows are dense and follow each other: [B, *image] in any order of the inner strides."""
    check_defined(tensor, name)
    require(tensor.ndim >= 1, f"{name} has no dimension, expected [B, *image]")
    if not tensor.numel():
        return
    elements = row_elements(tensor)
    require(
        len(tensor) == 1 or tensor.stride(0) == elements,
        f"{name} has stride {tensor.stride(0)} between rows, expected dense rows of {elements}",
    )
    inner = zip(tensor.stride()[1:], tensor.shape[1:], strict=True)
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in inner if size > 1):
        require(stride == expected, f"{name} is not dense, expected no gaps and no overlap")
        expected *= size


def check_rows_like(tensor: Tensor, name: str, rows: int, like: Tensor) -> None:
    """[rows, *image] with the inner sizes and strides of `like`."""
    check_device(tensor, name, like)
    check_dense_rows(tensor, name)
    require(
        tensor.ndim == like.ndim and len(tensor) == rows,
        f"{name} has shape {list(tensor.shape)}, expected {rows} rows of the shape of "
        f"{list(like.shape)}",
    )
    for d in range(1, like.ndim):
        require(
            tensor.shape[d] == like.shape[d],
            f"{name} has shape {list(tensor.shape)}, expected the inner shape of "
            f"{list(like.shape)}",
        )
        require(
            tensor.shape[d] <= 1 or tensor.stride(d) == like.stride(d) or rows == 0,
            f"{name} has other inner strides than the first argument",
        )


def check_matrix(tensor: Tensor, name: str, rows: int, like: Tensor) -> None:
    """A contiguous [rows, C] of at least one column."""
    check_device(tensor, name, like)
    require(
        tensor.ndim == 2
        and len(tensor) == rows
        and tensor.shape[1] >= 1
        and tensor.is_contiguous(),
        f"{name} has shape {list(tensor.shape)}, expected a contiguous [{rows}, C] with C >= 1",
    )


def check_separate(tensors: Mapping[str, Tensor | None], written: Sequence[str]) -> None:
    """No byte of memory that is written is seen through another argument."""
    spans = {
        name: (tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size())
        for name, tensor in tensors.items()
        if tensor is not None and tensor.numel()
    }
    for name in written:
        if name not in spans:
            continue
        begin, end = spans.pop(name)
        for other, (other_begin, other_end) in spans.items():
            require(end <= other_begin or other_end <= begin, f"{name} shares memory with {other}")


def check_index(index: Tensor, name: str, limit: int) -> None:
    """Every entry lies in [0, limit); looked at on the CPU alone, where nothing waits for it."""
    if index.device.type != "cpu":
        return
    wrong = ((index < 0) | (index >= limit)).nonzero()
    if len(wrong):
        b = int(wrong[0])
        raise RuntimeError(f"{name}[{b}] is {int(index[b])}, expected 0 <= index < {limit}")


def check_ball(radius: float, lower: float, upper: float) -> None:
    """A radius and bounds that leave a point."""
    require(radius >= 0.0, f"radius is {radius:g}, expected a number >= 0")
    require(lower <= upper, f"lower is {lower:g}, expected at most upper, {upper:g}")
