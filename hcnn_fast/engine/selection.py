"""Which labels are tried."""

from __future__ import annotations

import torch
from torch import Tensor


def likeliest_labels(logits: Tensor, count: int | None) -> Tensor:  # [N, C] -> [N, L] int64
    """The `count` likeliest labels of each row (None: all) in rising order; ties to the lowest.

    Raises:
        ValueError: more labels than classes.
    """
    rows, classes = logits.shape
    if count is None:
        return torch.arange(classes, device=logits.device).expand(rows, classes)
    if count > classes:
        raise ValueError(f"labels is {count}, expected at most the model's {classes} classes")
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    return ranked[:, :count].sort(1).values
