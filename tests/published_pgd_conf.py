"""The loop of PGD-Conf as published, in plain steps: one decision on the host for every sample.

Truth for the tests and rival in the benchmark. It shares no code with the package: objectives are
the papers' formulas, projections are found by bisection, sample by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def objective_of(
    logits: Tensor,  # [N, C]
    y: Tensor,  # [N]
    name: str,
) -> Tensor:  # [N], lower is better for the attacker
    others = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    if name == "cross_entropy":
        return -torch.nn.functional.cross_entropy(logits, y, reduction="none")
    if name == "logit":
        return -logits.masked_fill(others, -torch.inf).max(1).values
    if name == "distal":
        return -torch.log_softmax(logits, 1).max(1).values
    return -torch.softmax(logits, 1).masked_fill(others, -1.0).max(1).values


def normalised(gradient: Tensor, norm: str) -> Tensor:  # of one sample
    if norm == "linf":
        return gradient.sign()
    length = gradient.norm(p=2 if norm == "l2" else 1)
    return gradient / length if length.item() > 0 else gradient


def projected(
    displacement: Tensor,  # [*image] of one sample
    image: Tensor,  # [*image]
    radius: float,
    norm: str,
    bounds: tuple[float, float],
) -> Tensor:
    """The nearest displacement in ball and bounds, by bisection on the norm's multiplier."""
    low, high = bounds[0] - image, bounds[1] - image
    if norm == "l0":  # what is kept of an entry saves v^2 - (v - c)^2
        v, c = displacement.flatten().tolist(), displacement.clamp(low, high).flatten().tolist()
        ranked = sorted(range(len(v)), key=lambda i: (v[i] - c[i]) ** 2 - v[i] ** 2)
        kept = [c[i] if i in ranked[: math.ceil(radius)] else 0.0 for i in range(len(v))]
        return torch.tensor(kept, dtype=image.dtype).view_as(image)

    def at(t: float) -> Tensor:
        if norm == "linf":
            return displacement.clamp(-radius, radius).clamp(low, high)
        if norm == "l2":
            return (displacement / (1.0 + t)).clamp(low, high)
        shrunk = displacement.sign() * (displacement.abs() - t).clamp_min(0.0)
        return shrunk.clamp(low, high)

    order = {"l2": 2.0, "l1": 1.0, "linf": torch.inf}[norm]
    if norm == "linf" or at(0.0).norm(p=order).item() <= radius:
        return at(0.0)
    little, much = 0.0, 1.0
    while at(much).norm(p=order).item() > radius:
        much *= 2.0
    for _ in range(60):
        middle = 0.5 * (little + much)
        little, much = (
            (middle, much) if at(middle).norm(p=order).item() > radius else (little, middle)
        )
    return at(much)


def published_pgd_conf(
    model: nn.Module,
    x: Tensor,  # [N, *image]
    y: Tensor,  # [N]
    start: Tensor,  # [N, *image] first displacement
    *,
    objective: str,
    project: Callable[[Tensor, Tensor], Tensor],  # displacement and image of one sample
    norm: str,
    steps: int,
    step_size: float,
    momentum: float,
    backtracking: float | None,
) -> tuple[Tensor, list[float], list[list[float]]]:
    """Best displacement, its error, and the error of every iterate of every sample."""
    count = len(x)
    delta = start.clone()
    best, best_error = delta.clone(), [float("inf")] * count
    average, rate = torch.zeros_like(x), [step_size] * count
    path: list[list[float]] = []
    for step in range(steps + 1):
        delta = torch.stack([project(delta[n], x[n]) for n in range(count)]).requires_grad_()
        error = objective_of(model(x + delta), y, objective)
        for n in range(count):
            if error[n].item() < best_error[n]:
                best_error[n], best[n] = error[n].item(), delta[n].detach()
        path.append(error.tolist())
        (gradient,) = torch.autograd.grad(error.sum(), delta)
        if step == steps:
            break
        delta = delta.detach()
        unit = torch.stack([normalised(gradient[n], norm) for n in range(count)])
        average = momentum * average + (1.0 - momentum) * unit
        moved = torch.stack([delta[n] - rate[n] * average[n] for n in range(count)])
        if backtracking is None:
            delta = moved
            continue
        tried = torch.stack([project(moved[n], x[n]) for n in range(count)])
        with torch.no_grad():
            error_there = objective_of(model(x + tried), y, objective)
        for n in range(count):
            if error_there[n].item() <= error[n].item():
                delta[n] = moved[n]
            else:
                rate[n] = max(rate[n] / backtracking, 1e-20)
    return best, best_error, path
