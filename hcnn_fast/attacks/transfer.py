"""Points made elsewhere, against another model."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_choice
from hcnn_fast.attacks.norm_balls import BallNorm, size_of
from hcnn_fast.attacks.result import AttackResult
from hcnn_fast.attacks.runs import Runs, posed
from hcnn_fast.attacks.solve import solve
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.inputs import ROUNDING, Classifier


def transfer(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    points: Tensor,
    *,
    radius: float,
    norm: BallNorm = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int | None = None,
) -> AttackResult:
    """Score points that were made on another model, or by any other means.

    Of an image's points the one where a wrong class is most confident is kept, among those that the
    model gets wrong if there are any. What rounding left outside ball or bounds is brought back.

    Args:
        model: nn.Module or callable giving logits [N, C]; it need not be differentiable.
        x: [N, *image] float32 or float64 within `bounds`.
        y: [N] int64, the classes to be lost.
        points: [N, *image], or [N, A, *image] for A attempts each.
        radius: radius of the ball in input units; for l0 the number of entries, rounded up.
        norm: norm of the ball: "linf", "l2", "l1" or "l0".
        bounds: smallest and largest value that an input may take.
        batch_size: largest number of points that pass the model at once; None: planned.

    Returns:
        `value` is max_k F_k over k != y; no gradient steps are spent.

    Raises:
        TypeError, ValueError: an argument is not usable, or a point lies outside ball or bounds by
            more than rounding; the message names it.
        RuntimeError: memory does not suffice for one point.
    """
    check_choice("norm", norm, get_args(BallNorm))
    config = SearchConfig.mcn(radius, bounds=bounds, batch_size=batch_size)
    attempts = _attempts(points, x)  # [N, A, *image]
    with posed(model, x, y, config, "confidence") as problem:

        def placed(runs: Runs) -> tuple[Tensor, int]:
            point = attempts[runs.index, runs.start]  # [B, *image]
            region = problem.region(runs, norm)
            near = region.project_(point.clone())
            gap = float((near - point).abs().max())
            if gap > ROUNDING:
                furthest = float(size_of(point - region.image, norm).max())
                raise ValueError(
                    f"points has points up to {furthest:g} from x in {norm}, {gap:g} outside, "
                    f"expected radius {radius:g} and bounds {config.bounds}"
                )
            return near, 0

        return solve(
            problem,
            placed,
            loss="confidence",
            targets=problem.label[:, None],
            starts=attempts.shape[1],
            choice="best_success",
        )


def _attempts(points: object, x: Tensor) -> Tensor:  # [N, A, *image]
    """The points with a dimension of attempts.

    Raises:
        TypeError, ValueError: not a tensor of finite numbers in the dtype and shape of x.
    """
    if not isinstance(points, Tensor) or not isinstance(x, Tensor):
        raise TypeError(f"points is a {type(points).__name__}, expected a torch.Tensor beside x")
    if points.dtype != x.dtype or points.device != x.device:
        raise TypeError(
            f"points has dtype {points.dtype} on {points.device}, expected as x {x.dtype} "
            f"on {x.device}"
        )
    attempts = (points[:, None] if points.shape == x.shape else points).detach()
    if attempts.shape[:1] + attempts.shape[2:] != x.shape or attempts.shape[1] < 1:
        raise ValueError(
            f"points has shape {tuple(points.shape)}, expected {tuple(x.shape)}, "
            "or as many with A >= 1 attempts as second dimension"
        )
    if not bool(torch.isfinite(attempts).all()):
        raise ValueError("points contains NaN or infinite values, expected finite numbers")
    return attempts
