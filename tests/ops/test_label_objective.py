"""Objectives of the logits: by hand, against float64 by definition, and against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hcnn_fast import backends, ops, reference

every_backend = pytest.mark.parametrize("backend", backends.NAMES, indirect=True)
fast_backend = pytest.mark.parametrize(
    "backend", [name for name in backends.NAMES if name != "reference"], indirect=True
)

LABEL_KINDS = ("probability", "log_probability", "cross_entropy", "log_odds", "margin")
ORDERS = (0.0, 0.5, 1.0, 1.5, 2.0, 7.0, math.inf)
CASES = [(kind, 1.0) for kind in LABEL_KINDS] + [("negative_entropy", order) for order in ORDERS]
all_cases = pytest.mark.parametrize(
    ("kind", "order"), CASES, ids=[f"{kind}-{order:g}" for kind, order in CASES]
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def evaluate(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, C]
    """Value and gradient, on the CPU; what is written begins as a number that must not stay."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    value = torch.full((len(logits),), 12345.0, dtype=dtype, device=logits.device)
    gradient = torch.full_like(logits, 12345.0)
    ops.label_objective(
        logits, labels, kind, order=order, value=value, gradient=gradient, backend=backend
    )
    return value.cpu(), gradient.cpu()


def definition(
    logits: np.ndarray,  # [B, C]
    labels: np.ndarray,  # [B]
    kind: str,
    order: float,
) -> tuple[np.ndarray, np.ndarray]:  # [B], [B, C]
    """The formulas of the paper and their derivatives by hand, in extended precision."""
    z = logits.astype(np.longdouble)
    rows, classes = z.shape
    chosen = np.zeros((rows, classes), dtype=bool)
    chosen[np.arange(rows), labels] = True
    if kind == "negative_entropy":
        e = np.exp(z - z.max(1, keepdims=True))
        f = e / e.sum(1, keepdims=True)
        log_f = z - z.max(1, keepdims=True) - np.log(e.sum(1, keepdims=True))
        if order == 0.0:
            return -np.log((f > 0).sum(1).astype(np.longdouble)), np.zeros_like(f)
        if order == math.inf:
            top = np.eye(classes, dtype=np.longdouble)[z.argmax(1)]
            return log_f.max(1), top - f
        if order == 1.0:
            value = (f * log_f).sum(1)
            return value, f * (log_f - value[:, None])
        power = np.exp(order * (z - z.max(1, keepdims=True)))
        total = power.sum(1)
        value = (np.log(total) - order * np.log(e.sum(1))) / (order - 1)
        return value, order / (order - 1) * (power / total[:, None] - f)
    own = z[chosen]
    others = np.where(chosen, -np.inf, z)
    top = others.max(1)
    if kind == "margin":
        rival = np.eye(classes, dtype=np.longdouble)[others.argmax(1)]
        return own - top, chosen - rival
    e = np.exp(others - top[:, None])
    direction = chosen - e / e.sum(1, keepdims=True)
    odds = own - top - np.log(e.sum(1))
    p, q = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))  # F_l and 1 - F_l
    log_p = np.where(odds > 0, -np.log1p(np.exp(-np.abs(odds))), odds - np.log1p(np.exp(-np.abs(odds))))
    value, factor = {
        "log_odds": (odds, np.ones_like(odds)),
        "probability": (p, p * q),
        "log_probability": (log_p, q),
        "cross_entropy": (-log_p, -q),
    }[kind]
    return value, factor[:, None] * direction
