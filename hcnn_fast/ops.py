"""The fused operations as Python functions: dispatch to a backend, and their fakes.

Every function writes into tensors that the caller owns, so that a step allocates nothing. The
compiled implementations check shapes, dtypes, devices and layouts and name the argument at fault.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from hcnn_fast import backends, reference


def implementation(backend: str) -> Any:
    """Where a backend's operations are, with the arguments of their schemas in order."""
    if backend == "triton":
        return importlib.import_module("hcnn_fast.kernels")
    return torch.ops.hcnn_fast


def label_objective(
    logits: Tensor,  # [B, C] float32, float64, float16 or bfloat16
    labels: Tensor,  # [B] int64
    kind: str,
    *,
    order: float = 1.0,
    value: Tensor,  # [B] float32 (float64 for float64 logits), written
    gradient: Tensor,  # [B, C] dtype of logits, written
    backend: str = "auto",
) -> None:
    """Objective of every row and its gradient in the logits; see `reference.label_objective`."""
    chosen = backends.resolve(backend, logits.device.type)
    if chosen == "reference":
        reference.label_objective(logits, labels, kind, order=order, value=value, gradient=gradient)
        return
    implementation(chosen).label_objective(logits, labels, kind, order, value, gradient)


def pgd_step_(
    point: Tensor,  # [B, *image] float32 or float64, moved in place
    gradient: Tensor,  # [B, *image] dtype of point, or float16 or bfloat16
    image: Tensor,  # [N, *image]
    image_index: Tensor,  # [B] int64
    step_size: Tensor,  # [B]
    *,
    radius: float,
    bounds: tuple[float, float],
    momentum_buffer: Tensor | None = None,  # [B, *image]
    momentum: float = 0.0,
    penalty: Tensor | None = None,  # [B]
    norm: str = "linf",
    value: Tensor | None = None,  # [B]
    distance_weight: float = 0.0,
    best: Tensor | None = None,  # [B, *image]
    best_value: Tensor | None = None,  # [B]
    distance: Tensor | None = None,  # [B]
    copy: Tensor | None = None,  # [B, *image] float16 or bfloat16
    previous: Tensor | None = None,  # [B, *image]
    motion: Tensor | None = None,  # [B] uint8
    reach: Tensor | None = None,  # [B]
    backend: str = "auto",
) -> None:
    """One projected-gradient step for every candidate; see `reference.pgd_step_`.

    All [B, *image] tensors and `image` share one dense layout (any order of strides).
    """
    chosen = backends.resolve(backend, point.device.type)
    if chosen == "reference":
        reference.pgd_step_(
            point,
            gradient,
            image,
            image_index,
            step_size,
            radius=radius,
            bounds=bounds,
            momentum_buffer=momentum_buffer,
            momentum=momentum,
            penalty=penalty,
            norm=norm,
            value=value,
            distance_weight=distance_weight,
            best=best,
            best_value=best_value,
            distance=distance,
            copy=copy,
            previous=previous,
            motion=motion,
            reach=reach,
        )
        return
    implementation(chosen).pgd_step_(
        point,
        gradient,
        image,
        image_index,
        step_size,
        radius,
        bounds[0],
        bounds[1],
        momentum_buffer,
        momentum,
        penalty,
        norm,
        value,
        distance_weight,
        best,
        best_value,
        distance,
        copy,
        previous,
        motion,
        reach,
    )


def backtracking_step_(
    proposal: Tensor,  # [B, *image] float32 or float64, replaced by the next one
    gradient: Tensor,  # [B, *image]
    reached: Tensor,  # [B]
    *,
    point: Tensor,  # [B, *image], written
    value: Tensor,  # [B], written
    uphill: Tensor,  # [B, *image], written
    average: Tensor,  # [B, *image], written
    step_size: Tensor,  # [B], written
    image: Tensor,  # [N, *image]
    image_index: Tensor,  # [B] int64
    radius: float,
    bounds: tuple[float, float],
    momentum: float,
    backtracking: float | None,
    direction: str = "sign",
    best: Tensor | None = None,  # [B, *image], written
    best_value: Tensor | None = None,  # [B], written
    backend: str = "auto",
) -> None:
    """Take the proposed points or refuse them, and propose the next ones.

    See `reference.backtracking_step_`. All [B, *image] tensors and `image` share one dense layout
    (any order of strides), and all but `image_index` the dtype of `proposal`.
    """
    chosen = backends.resolve(backend, proposal.device.type)
    if chosen == "reference":
        reference.backtracking_step_(
            proposal,
            gradient,
            reached,
            point=point,
            value=value,
            uphill=uphill,
            average=average,
            step_size=step_size,
            image=image,
            image_index=image_index,
            radius=radius,
            bounds=bounds,
            momentum=momentum,
            backtracking=backtracking,
            direction=direction,
            best=best,
            best_value=best_value,
        )
        return
    implementation(chosen).backtracking_step_(
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
        radius,
        bounds[0],
        bounds[1],
        momentum,
        backtracking,
        direction,
        best,
        best_value,
    )


def content_hash(
    image: Tensor,  # [N, *image] float32 or float64
    *,
    backend: str = "auto",
) -> Tensor:  # [N] int64
    """A 64-bit hash of each image's values; see `reference.content_hash`."""
    out = torch.empty(len(image), dtype=torch.int64, device=image.device)
    chosen = backends.resolve(backend, image.device.type)
    if chosen == "reference":
        reference.content_hash(image, out=out)
    else:
        implementation(chosen).content_hash(image.contiguous(), out)
    return out


def random_starts(
    image: Tensor,  # [N, *image]
    image_hash: Tensor,  # [N] int64
    image_index: Tensor,  # [B] int64
    label: Tensor,  # [B] int64
    start: Tensor,  # [B] int64
    *,
    seed: int,
    radius: float,
    bounds: tuple[float, float],
    backend: str = "auto",
) -> Tensor:  # [B, *image] contiguous
    """First point of every candidate; see `reference.random_starts`."""
    point = torch.empty(
        (len(image_index), *image.shape[1:]), dtype=image.dtype, device=image.device
    )
    chosen = backends.resolve(backend, image.device.type)
    if chosen == "reference":
        reference.random_starts(
            image,
            image_hash,
            image_index,
            label,
            start,
            seed=seed,
            radius=radius,
            bounds=bounds,
            point=point,
        )
    else:
        implementation(chosen).random_starts(
            image.contiguous(),
            image_hash,
            image_index,
            label,
            start,
            seed,
            radius,
            bounds[0],
            bounds[1],
            point,
        )
    return point


def select(
    point: Tensor,  # [n * L * S, *image] float32 or float64, by image, then label, then start
    logits: Tensor,  # [n * L * S, C]
    value: Tensor,  # [n * L * S] float32 or float64
    certainty: Tensor,  # [n * L * S] dtype of value
    *,
    labels: int,
    starts: int,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [n, L], [n], [n, *image], [n]
    """Best row of every label, winning label's position, its point and prediction.

    See `reference.select`.
    """
    images = len(point) // (labels * starts)
    row = torch.empty((images, labels), dtype=torch.int64, device=point.device)
    winner, prediction = torch.empty_like(row[:, 0]), torch.empty_like(row[:, 0])
    best_point = torch.empty_like(point[:images])
    chosen = backends.resolve(backend, point.device.type)
    if chosen == "reference":
        reference.select(
            point,
            logits,
            value,
            certainty,
            starts,
            row=row,
            winner=winner,
            best_point=best_point,
            prediction=prediction,
        )
    else:
        implementation(chosen).select(
            point,
            logits.contiguous(),
            value,
            certainty,
            starts,
            row,
            winner,
            best_point,
            prediction,
        )
    return row, winner, best_point, prediction


def _writes_in_place(*arguments: object) -> None:
    """Fake of every operation: all of them write into tensors given to them."""
    devices = {tensor.device for tensor in arguments if isinstance(tensor, Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"the tensors are on several devices: {sorted(map(str, devices))}")


if backends.reasons()["cpu"] is None:
    for _name in backends.OPERATIONS:
        torch.library.register_fake(f"hcnn_fast::{_name}", _writes_in_place)
