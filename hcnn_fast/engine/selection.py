"""Which labels are tried and which candidate wins, with the tie rules of the contract."""

from __future__ import annotations

import math

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


def first_best(
    value: Tensor,  # [N, K]
    second: Tensor,  # [N, K]
) -> Tensor:  # [N] int64
    """Index of the largest value in each row; of equals the largest `second`, then the first.

    Equal values are often only equal once rounded: probabilities that round to 1, or -inf for
    all labels of an infeasible problem.
    """
    key = torch.where(value == value.amax(1, keepdim=True), second, -math.inf)
    position = torch.arange(key.shape[1], device=key.device)
    top = (key == key.amax(1, keepdim=True)) & (value == value.amax(1, keepdim=True))
    return torch.where(top, position, key.shape[1]).amin(1)
