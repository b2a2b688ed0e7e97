"""The operations of a search step, each as the formula that defines it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
KINDS = (
    "probability",
    "log_probability",
    "cross_entropy",
    "log_odds",
    "margin",
    "negative_entropy",
)


def label_objective(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B] int64
    kind: str,
    *,
    order: float = 1.0,
    value: Tensor,  # [B]
    gradient: Tensor,  # [B, C]
) -> None:
    """Write an objective of each row and its gradient with respect to the logits.

    With F = softmax(Z), l the label, k the other classes:
    probability F_l; log_probability log F_l; cross_entropy -log F_l;
    log_odds Z_l - log sum_k e^Z_k, which is logit(F_l);
    margin Z_l - max_k Z_k (the first maximiser takes the gradient);
    negative_entropy -H_order(F), Shannon for order 1, Renyi otherwise (Wu et al. 2018, sec. 4.1).
    """
    z = logits.double()
    z = z - z.amax(1, keepdim=True)  # no objective sees a shift, and sums keep their accuracy
    target = torch.nn.functional.one_hot(labels, z.shape[1]).to(z.dtype)
    others = z.masked_fill(target.bool(), -math.inf)
    rest = torch.logsumexp(others, 1)  # [B] log sum_k e^Z_k
    own = z.gather(1, labels[:, None])[:, 0]  # [B]
    log_f = z - torch.logsumexp(z, 1, keepdim=True)
    f = log_f.exp()
    log_own = torch.nn.functional.logsigmoid(own - rest)  # log F_l without cancellation near 1
    f_others = f.masked_fill(target.bool(), 0.0)
    toward = target * f_others.sum(1, keepdim=True) - f_others  # e_l - F
    if kind == "probability":
        result, slope = log_own.exp(), log_own.exp()[:, None] * toward
    elif kind == "log_probability":
        result, slope = log_own, toward
    elif kind == "cross_entropy":
        result, slope = -log_own, -toward
    elif kind == "log_odds":
        result = own - rest
        slope = target - torch.softmax(others, 1)
    elif kind == "margin":
        rival = others.argmax(1) if z.shape[1] > 1 else labels
        result = own - others.amax(1)
        slope = target - torch.nn.functional.one_hot(rival, z.shape[1])
    elif kind == "negative_entropy":
        result, slope = _negative_entropy(log_f, f, order)
    else:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if z.shape[1] == 1:  # a single class is certain: no direction changes anything
        slope = torch.zeros_like(slope)
    value.copy_(result)
    gradient.copy_(slope)


def _negative_entropy(log_f: Tensor, f: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """-H(F) and its gradient in the logits; closed forms of spec A.3."""
    if abs(order - 1.0) < 1e-7:  # Shannon, and orders too near 1 for the quotient below
        information = torch.where(f > 0, log_f, torch.zeros_like(log_f))
        result = (f * information).sum(1)
        return result, f * (information - result[:, None])
    if order == 0.0:  # log of the number of possible classes: flat
        possible = (f > 0).sum(1) + 0.0 * f.sum(1)  # NaN for a row that is not a number
        return -possible.log(), torch.zeros_like(f)
    if order == math.inf:  # log max F
        first = torch.nn.functional.one_hot(f.argmax(1), f.shape[1])
        return log_f.amax(1), first - f
    log_sum = torch.logsumexp(order * log_f, 1)  # log sum F^a
    escort = (order * log_f - log_sum[:, None]).exp()  # F^a / sum F^a
    return log_sum / (order - 1.0), order / (order - 1.0) * (escort - f)


def pgd_step_(
    point: Tensor,  # [B, *image] float32 or float64, moved in place
    gradient: Tensor,  # [B, *image] ascent direction
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
    value: Tensor | None = None,  # [B] objective at `point`, without the distance
    distance_weight: float = 0.0,
    best: Tensor | None = None,  # [B, *image]
    best_value: Tensor | None = None,  # [B]
    distance: Tensor | None = None,  # [B]
    copy: Tensor | None = None,  # [B, *image] low precision
    previous: Tensor | None = None,  # [B, *image] the point before this one, NaN where none was
    motion: Tensor | None = None,  # [B] uint8
    reach: Tensor | None = None,  # [B]
) -> None:
    """One step of projected gradient ascent for every candidate (spec H.1, step 3).

    In this order: keep `point` as `best` where value - distance_weight * distance is strictly
    larger than best_value; accumulate m <- momentum * m + g / max|g|; move along sign(m), weighed
    against penalty * |z - x| where a penalty is given; clip to the ball and to the bounds; write
    the distance of the new point and its copy; write to `motion` 1 where the point stayed, else 2
    where it went back to `previous`, else 0; and write the old point to `previous`. What goes to
    `reach` is the largest gradient . (z - point) over the z of ball and bounds, for the old point:
    the duality gap of Frank and Wolfe 1956.
    """
    shape = (-1,) + (1,) * (point.ndim - 1)
    x = image[image_index]  # [B, *image]
    if best is not None and best_value is not None and value is not None:
        score = value if distance is None else value - distance_weight * distance
        better = score > best_value
        best.copy_(torch.where(better.view(shape), point, best))
        best_value.copy_(torch.where(better, score, best_value))
    biggest = torch.finfo(point.dtype).max
    g = torch.nan_to_num(gradient.to(point.dtype), nan=0.0, posinf=biggest, neginf=-biggest)
    slope = g
    scale = g.flatten(1).abs().amax(1) if g[0:1].numel() else point.new_zeros(len(point))  # [B]
    if momentum_buffer is not None or penalty is not None:
        g = torch.where(scale.view(shape) > 0, g / scale.view(shape), torch.zeros_like(g))
    if momentum_buffer is not None:
        momentum_buffer.copy_(momentum * momentum_buffer + g)
        g = momentum_buffer
    step = step_size.to(point.dtype).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
    step = step.view(shape)
    if penalty is None:
        moved = point + _along(step, g)
    else:
        threshold = torch.where(scale > 0, penalty / scale, penalty * math.inf)
        threshold = torch.nan_to_num(threshold, nan=0.0, posinf=biggest).view(shape)
        moved = _penalised_move(point, g, x, step, threshold, norm)
    lower = (x - radius).clamp_min(bounds[0])
    upper = (x + radius).clamp_max(bounds[1])
    placed = torch.minimum(torch.maximum(moved, lower), upper)
    if reach is not None:
        within = torch.where(slope > 0, upper, lower).double() - point.double()
        reach.copy_((slope.double() * within).flatten(1).sum(1))
    if motion is not None:
        rows = tuple(range(1, point.ndim))
        back = torch.zeros_like(motion, dtype=torch.bool)
        if previous is not None:
            back = (placed == previous).all(rows) if rows else placed == previous
            previous.copy_(point)
        still = (placed == point).all(rows) if rows else placed == point
        motion.copy_(torch.where(still, 1, torch.where(back, 2, 0)))
    point.copy_(placed)
    if distance is not None:
        distance.copy_(norm_of(point - x, norm))
    if copy is not None:
        copy.copy_(point)


def _penalised_move(
    point: Tensor,  # [B, *image]
    m: Tensor,  # [B, *image] direction, largest gradient entry 1
    x: Tensor,  # [B, *image]
    step: Tensor,  # [B, 1, ...]
    threshold: Tensor,  # [B, 1, ...] weight of the distance in units of m
    norm: str,
) -> Tensor:
    """The move that raises m . z - threshold * |z - x| at most `step` away, per norm.

    l1: each entry for itself, stopping at x when it would cross it against the penalty.
    l2: along the sign of m - threshold * d / |d|; from d = 0 only where |m| > threshold.
    linf: the level max|d| rises by `step` if the entries on it gain more than the penalty costs,
    stays if those that would pass it do, and sinks by `step` otherwise.
    """
    d = point - x
    if norm == "l1":
        uphill = m - threshold * d.sign()
        from_zero = m - torch.minimum(torch.maximum(m, -threshold), threshold)
        moved = d + _along(step, torch.where(d == 0, from_zero, uphill))
        stops = (d.sign() * moved.sign() < 0) & (m.abs() <= threshold)
        return x + torch.where(stops, torch.zeros_like(moved), moved)
    rows = tuple(range(1, d.ndim))
    if norm == "l2":
        size = d.double().square().sum(rows, keepdim=True).sqrt().to(d.dtype)
        slope = m.double().square().sum(rows, keepdim=True).sqrt().to(d.dtype)
        from_zero = torch.where(slope > threshold, m, torch.zeros_like(m))
        pulled = m - threshold * (d / size)
        return point + _along(step, torch.where(size == 0, from_zero, pulled))
    level = d.abs().amax(rows, keepdim=True)
    outward = _along(d, m)
    weight = m.abs().double()
    near = step * 0.0625  # entries on the level differ from it by rounding
    on_level = torch.where(outward + near >= level, weight, 0.0).sum(rows, keepdim=True).to(d.dtype)
    passing = torch.where(outward + step > level, weight, 0.0).sum(rows, keepdim=True).to(d.dtype)
    sunk = (level - step).clamp_min(0.0)
    new_level = torch.where(passing > threshold, level, sunk)
    new_level = torch.where(on_level > threshold, level + step, new_level)
    moved = d + _along(step, m)
    return x + torch.minimum(torch.maximum(moved, -new_level), new_level)


def _along(step: Tensor, direction: Tensor) -> Tensor:
    """step * sign(direction), where the sign of 0 and of NaN is 0, even for an infinite step."""
    ahead = torch.where(direction > 0, step, torch.zeros_like(step))
    return torch.where(direction < 0, -step, ahead)


def norm_of(d: Tensor, norm: str) -> Tensor:
    """Norm of each row of d [B, *image], sums in float64 and rounded once."""
    rows = d.flatten(1).abs()
    if not rows.shape[1]:
        return rows.new_zeros(len(rows))
    if norm == "linf":
        return rows.amax(1)
    if norm == "l1":
        return rows.double().sum(1).to(d.dtype)
    return rows.double().square().sum(1).sqrt().to(d.dtype)


def select(
    point: Tensor,  # [n * L * S, *image], by image, then label, then start
    logits: Tensor,  # [n * L * S, C]
    value: Tensor,  # [n * L * S]
    certainty: Tensor,  # [n * L * S]
    starts: int,  # S
    *,
    row: Tensor,  # [n, L] int64, written
    winner: Tensor,  # [n] int64, written
    best_point: Tensor,  # [n, *image], written
    prediction: Tensor,  # [n] int64, written
) -> None:
    """Write the row of every label's best start, the winning label's position, and what is there.

    The larger value wins, of equal ones the larger certainty, of equals the first; NaN counts as
    minus infinity. `prediction` is the first of the largest logits at the winning point.
    """
    images, labels = row.shape
    score = torch.nan_to_num(value, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    second = torch.nan_to_num(certainty, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    start = _first_best(score.view(-1, starts), second.view(-1, starts))  # [n * L]
    row.copy_((start + torch.arange(images * labels, device=row.device) * starts).view_as(row))
    winner.copy_(_first_best(score[row], second[row]))
    chosen = row.gather(1, winner[:, None])[:, 0]  # [n]
    best_point.copy_(point[chosen])
    finite = torch.nan_to_num(logits[chosen], nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    prediction.copy_(_first_best(finite, finite))


def _first_best(
    value: Tensor,  # [N, K]
    second: Tensor,  # [N, K]
) -> Tensor:  # [N] int64
    """Index of the largest value in each row; of equals the largest `second`, then the first."""
    top = value == value.amax(1, keepdim=True)
    key = second.masked_fill(~top, -math.inf)
    top &= key == key.amax(1, keepdim=True)
    position = torch.arange(value.shape[1], device=value.device)
    return position.expand_as(value).masked_fill(~top, value.shape[1]).amin(1)


def _mix(bits: Words) -> Words:
    """The splitmix64 finaliser (Steele, Lea, Flood 2014), on uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def content_hash(image: Tensor, *, out: Tensor) -> None:
    """Write a 64-bit hash of each image's values to out [N] int64; -0.0 counts as 0.0.

    The hash is the sum over elements i of mix(bits(x_i) + mix(i + 1)), modulo 2^64, so that it can
    be computed in any order.
    """
    rows = (image.detach().cpu()[..., None].flatten(1) + 0.0).numpy()
    unsigned = np.uint32 if rows.dtype == np.float32 else np.uint64
    bits = np.ascontiguousarray(rows).view(unsigned).astype(np.uint64)
    position = _mix(np.arange(1, rows.shape[1] + 1, dtype=np.uint64))
    total = _mix(bits + position).sum(1, dtype=np.uint64)
    out.copy_(torch.from_numpy(total.view(np.int64)))


def _philox(counter: list[Words], key: list[Words]) -> list[Words]:
    """Philox4x32-10 (Salmon et al. 2011): four words per counter, all arrays uint64 below 2^32."""
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for _ in range(10):
        first = np.uint64(0xD2511F53) * counter[0]
        second = np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (second >> shift) ^ counter[1] ^ key[0],
            second & low,
            (first >> shift) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    return counter


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
    point: Tensor,  # [B, *image] written
) -> None:
    """Write each candidate's first point: the image for start 0, else uniform in ball and bounds.

    Element i of a candidate takes word i mod 4 of Philox at counter (i div 4, label, start, 0)
    under the key mix(hash of the image xor mix(seed)); the upper 24 bits make u in [0, 1), and the
    point is lower + u * (upper - lower).
    """
    low = np.uint64(0xFFFFFFFF)
    elements = point[0:1].numel()
    for b in range(len(point)):
        x = image[image_index[b]]
        lower = (x - radius).clamp_min(bounds[0])
        upper = (x + radius).clamp_max(bounds[1])
        if int(start[b]) == 0:
            point[b] = torch.minimum(torch.maximum(x, lower), upper)
            continue
        content = np.array(int(image_hash[image_index[b]]), dtype=np.int64).view(np.uint64)
        key = _mix(content ^ _mix(np.array([seed], dtype=np.uint64)))
        block = np.arange((elements + 3) // 4, dtype=np.uint64)
        tag = [np.full_like(block, int(v)) for v in (label[b], start[b], 0)]
        words = np.stack(_philox([block, *tag], [key & low, key >> np.uint64(32)]), 1)
        u = (words.reshape(-1)[:elements] >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
        uniform = torch.from_numpy(u).to(x).view_as(x)
        point[b] = torch.minimum(lower + uniform * (upper - lower), upper)
