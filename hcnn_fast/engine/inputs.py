"""What a search accepts: images, models and logits, refused in one sentence before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hcnn_fast.config import SearchConfig

Classifier = nn.Module | Callable[[Tensor], Any]

ROUNDING = 1e-6  # how far outside the bounds an input may lie; it is clipped


def check_images(x: object, config: SearchConfig) -> Tensor:
    """x [N, *image] detached, contiguous and clipped to the bounds.

    Raises:
        TypeError, ValueError: as `check_values`.
    """
    return within_bounds(check_values(x, config), config)


def within_bounds(x: Tensor, config: SearchConfig) -> Tensor:  # [N, *image]
    """A contiguous copy of images that have passed `check_values`, clipped to the bounds."""
    return x.contiguous().clamp(*config.bounds)


def check_values(x: object, config: SearchConfig) -> Tensor:
    """x [N, *image] detached, and nothing else done to it.

    Raises:
        TypeError: not a dense tensor, or not float32 or float64.
        ValueError: no image dimension, NaN or infinite values, or values outside the bounds.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, expected a torch.Tensor [N, *image]")
    if x.layout != torch.strided:
        raise TypeError(
            f"x is a sparse tensor ({x.layout}), expected a dense one; pass x.to_dense()"
        )
    low, high = config.bounds
    if not x.is_floating_point():
        raise TypeError(
            f"x has dtype {x.dtype}, expected float32 or float64 in [{low:g}, {high:g}]; "
            "scale 8-bit images first: x.float() / 255"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"x has dtype {x.dtype}, expected float32 or float64; "
            'pass x.float() and choose precision="bfloat16" or "float16" for a fast search'
        )
    if x.ndim < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected [N, *image]; for one image pass x[None]"
        )
    if x[0:1].numel() == 0 and len(x) > 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected images with at least one value")
    if config.precision in ("bfloat16", "float16") and x.dtype != torch.float32:
        raise ValueError(
            f"precision is {config.precision!r} and x has dtype {x.dtype}, "
            "expected float32 images for a low-precision search"
        )
    x = x.detach()
    if x.numel():
        smallest, largest = (float(v) for v in torch.aminmax(x))
        if not (smallest > -torch.inf and largest < torch.inf):  # NaN fails both
            raise ValueError("x contains NaN or infinite values, expected finite numbers")
        if smallest < low - ROUNDING or largest > high + ROUNDING:
            raise ValueError(
                f"x has values in [{smallest:g}, {largest:g}], expected bounds "
                f"[{low:g}, {high:g}]; scale x, or set bounds="
            )
    return x


def check_labels(y: object, x: Tensor, classes: int | None = None) -> Tensor:
    """y [N] int64 class indices on the device of x, below `classes` where their number is known.

    Raises:
        TypeError, ValueError: not integers, another length than x, or outside [0, classes).
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}, expected a torch.Tensor [N] of class indices")
    if y.is_floating_point() or y.dtype == torch.bool or y.is_complex():
        raise TypeError(f"y has dtype {y.dtype}, expected integer class indices")
    if y.shape != (len(x),):
        raise ValueError(f"y has shape {tuple(y.shape)}, expected ({len(x)},), one label an image")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} and x on {x.device}, expected one device")
    if classes is not None and len(y) and not (0 <= int(y.min()) and int(y.max()) < classes):
        raise ValueError(
            f"y has labels in [{int(y.min())}, {int(y.max())}], expected 0 <= label < {classes}"
        )
    return y.long()


def check_model(model: object, x: Tensor) -> Classifier:
    """The model, whose parameters must have the device and the dtype of x.

    Raises:
        TypeError: not callable, or parameters of another dtype than x.
        ValueError: parameters on another device than x.
    """
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}, expected an nn.Module or a callable "
            "that maps images [N, *image] to logits [N, C]"
        )
    if isinstance(model, nn.Module):
        for name, parameter in model.named_parameters():
            if parameter.device != x.device:
                raise ValueError(
                    f"model is on {parameter.device} ({name}) and x on {x.device}, expected one "
                    "device; move one of them with .to()"
                )
            if parameter.is_floating_point() and parameter.dtype != x.dtype:
                raise TypeError(
                    f"model has {parameter.dtype} parameters ({name}) and x is {x.dtype}, "
                    "expected one dtype; convert one of them with .to()"
                )
    return model


def as_logits(output: Any, rows: int) -> Tensor:
    """The logits [rows, C] in what a model returned: a tensor, a tuple, or `.logits`.

    Raises:
        TypeError: no tensor of numbers in it.
        ValueError: another shape than [rows, C].
    """
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = getattr(found[0], "logits", found[0])
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = f" of {found.dtype}" if isinstance(found, Tensor) else ""
        raise TypeError(
            f"model returned {type(output).__name__}{kind}, expected logits as a floating [N, C] "
            "tensor, a tuple that begins with one, or an object with .logits"
        )
    if found.ndim != 2 or found.shape[0] != rows or found.shape[1] < 1:
        raise ValueError(
            f"model returned logits of shape {tuple(found.shape)}, expected [{rows}, C] with C >= 1"
        )
    return found


def check_finite(logits: Tensor) -> Tensor:
    """The logits, if all are finite.

    Raises:
        ValueError: a NaN or infinite logit.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("model returned non-finite logits, expected finite numbers")
    return logits
