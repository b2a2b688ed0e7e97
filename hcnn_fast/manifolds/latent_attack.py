"""Attacks that move along a manifold: the worst image near a code, of the same class by making."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from hcnn_fast import ops
from hcnn_fast.attacks.checks import check_choice, check_count
from hcnn_fast.attacks.losses import LOSSES, Loss, rise_of
from hcnn_fast.attacks.norm_balls import unit_step
from hcnn_fast.attacks.pgd import Objective
from hcnn_fast.engine.inputs import (
    ROUNDING,
    Classifier,
    as_logits,
    check_finite,
    check_labels,
    check_model,
)
from hcnn_fast.engine.model import frozen_copy
from hcnn_fast.manifolds.manifold import Coded, Decoder, LatentBox

RUNS = 256  # runs that pass decoder and model at once, if nothing else is asked for


@dataclass(frozen=True)
class OnManifoldResult:
    """The strongest image that an attack found on the manifold near each of N codes.

    Attributes:
        code: [N, Z], in ball and box.
        point: [N, *image], the decoded codes.
        value: [N] float32, the objective there.
        success: [N] bool, whether the model's prediction there is not y: the worst over restarts.
        hits: [N, S] bool, the same for each restart; their mean is the rate of the source.
        gradient_steps: gradient steps spent on all codes.
    """

    code: Tensor
    point: Tensor
    value: Tensor
    success: Tensor
    hits: Tensor
    gradient_steps: int


def on_manifold(
    model: Classifier,
    decoder: Decoder,
    coded: Coded,
    y: Tensor,  # [N] int64
    *,
    radius: float,
    box: LatentBox,
    steps: int = 40,
    step_size: float | None = None,
    starts: int = 1,
    objective: Objective = "cross_entropy",
    seed: int = 0,
    batch_size: int = RUNS,
) -> OnManifoldResult:
    """Make the model wrong about dec(z + zeta), |zeta|_inf <= radius and z + zeta in the box.

    Projected sign steps from random starts, as `attacks.pgd` makes them in the space of images.
    Every run keeps its best iterate; of the restarts the first that succeeds wins, or else the one
    with the largest objective.

    Args:
        model: nn.Module or callable giving logits [N, C]; left as it is.
        decoder: maps codes [B, Z] and conditions [B] to images, differentiable in the codes.
        coded: [N, Z] codes in the box, float32 or float64, and [N] conditions.
        y: [N] the classes to be lost.
        radius: l_inf radius eta in latent units, the same for every coordinate; at 0 the result is
            the reconstruction.
        box: where codes are valid.
        steps: gradient steps of each run.
        step_size: constant length of a step in latent units; None: 2.5 * radius / steps.
        starts: restarts for each code, uniform in the ball and then brought into the box.
        objective: what rises, see `attacks.pgd`.
        seed: of the starts, which also depend on the code.
        batch_size: largest number of runs at once, but at least those of one code.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.

    Source: Stutz, Hein and Schiele 2019, equation of the on-manifold adversarial example.
    """
    code = _checked(coded, radius, box, step_size)  # [N, Z]
    y = check_labels(y, code)
    for name, count in (("steps", steps), ("starts", starts), ("batch_size", batch_size)):
        check_count(name, count)
    check_choice("objective", objective, get_args(Objective))
    size = 2.5 * radius / steps if step_size is None else step_size
    check_model(model, code)
    parts: list[tuple[Tensor, ...]] = []
    with torch.inference_mode(False), torch.enable_grad():
        climb = _Climb(
            frozen_copy(model) if isinstance(model, nn.Module) else model,
            decoder,
            radius=radius,
            box=box.like(code),
            steps=steps if radius > 0.0 else 0,
            size=size,
            loss=LOSSES[objective],
            seed=seed,
        )
        held = max(1, batch_size // starts)
        for low in range(0, max(len(code), 1), held):  # no code: one empty part
            rows = slice(low, low + held)
            parts.append(climb(code[rows], coded.condition[rows], y[rows], starts))
    best, point, rise, hits = (torch.cat(part) for part in zip(*parts, strict=True))
    return OnManifoldResult(
        code=best,
        point=point,
        value=LOSSES[objective].value(rise).float(),
        success=hits.any(1),
        hits=hits,
        gradient_steps=climb.steps * starts * len(code),
    )


class _Climb:
    """Runs up the loss of the decoded codes, inside ball and box."""

    def __init__(
        self,
        model: Classifier,
        decoder: Decoder,
        *,
        radius: float,
        box: LatentBox,
        steps: int,
        size: float,
        loss: Loss,
        seed: int,
    ) -> None:
        self.model, self.decoder, self.radius, self.box = model, decoder, radius, box
        self.steps, self.size, self.loss, self.seed = steps, size, loss, seed

    def __call__(
        self,
        code: Tensor,  # [n, Z]
        condition: Tensor,  # [n]
        y: Tensor,  # [n]
        starts: int,
    ) -> tuple[Tensor, ...]:
        """Codes [n, Z], images [n, *image], rises [n] and hits [n, S] of the best runs."""
        index = torch.arange(len(code), device=code.device).repeat_interleave(starts)  # [B]
        centre = code[index]  # [B, Z]
        lower = torch.maximum(centre - self.radius, self.box.lower)  # [B, Z]
        upper = torch.minimum(centre + self.radius, self.box.upper)  # [B, Z]
        z = self._starts(code, index, y[index], starts).clamp(lower, upper)  # [B, Z]
        best, condition, y = z, condition[index], y[index]
        highest = torch.full_like(z[:, 0], -torch.inf)  # [B]
        hit = torch.zeros_like(y, dtype=torch.bool)  # [B]
        for step in range(self.steps + 1):
            leaf = z.detach().requires_grad_()
            image = self.decoder(leaf, condition)  # [B, *image]
            logits = check_finite(as_logits(self.model(image), len(leaf)))  # [B, C]
            rise = rise_of(self.loss, logits, y, y)  # [B]
            better = rise.detach() > highest  # [B]
            best = torch.where(better[:, None], z, best)
            hit = torch.where(better, logits.argmax(1) != y, hit)
            highest = torch.where(better, rise.detach().to(highest), highest)
            if step < self.steps:
                (gradient,) = torch.autograd.grad(rise.sum(), leaf)  # [B, Z]
                z = (z + self.size * unit_step(gradient, "linf")).clamp(lower, upper)
        hits = hit.view(-1, starts)  # [n, S]
        chosen = torch.where(hits, torch.inf, highest.view(-1, starts)).argmax(1)  # [n]
        row = chosen + starts * torch.arange(len(code), device=code.device)  # [n]
        with torch.no_grad():
            image = self.decoder(best[row], condition[row])  # [n, *image]
        return best[row], image, highest[row], hits

    def _starts(
        self,
        code: Tensor,  # [n, Z]
        index: Tensor,  # [B]
        y: Tensor,  # [B]
        starts: int,
    ) -> Tensor:  # [B, Z]
        """Points uniform in the balls, the same for a code whatever stands beside it."""
        if self.radius == 0.0:
            return code[index]
        return ops.random_starts(
            code,
            ops.content_hash(code),
            index,
            y,
            1 + torch.arange(starts, device=code.device).repeat(len(code)),
            seed=self.seed,
            radius=self.radius,
            bounds=(float(self.box.lower.min()), float(self.box.upper.max())),
        )


def _checked(
    coded: Coded,
    radius: float,
    box: LatentBox,
    step_size: float | None,
) -> Tensor:  # [N, Z] detached, and clipped to the box
    """The codes, if they, the ball and the box belong together."""
    code = coded.code
    if code.ndim != 2 or code.dtype not in (torch.float32, torch.float64):
        found = f"{list(code.shape)} {code.dtype}"
        raise ValueError(f"code is {found}, expected [N, Z] float32 or float64")
    if coded.condition.shape != code.shape[:1]:
        shape = list(coded.condition.shape)
        raise ValueError(f"condition has shape {shape}, expected [{len(code)}], one for each code")
    if code.shape[1:] != box.lower.shape:
        sides = f"{len(box.lower)} coordinates and codes {code.shape[1]}"
        raise ValueError(f"box has {sides}, expected as many")
    if not 0.0 <= radius < float("inf"):  # NaN fails too
        raise ValueError(f"radius is {radius!r}, expected a number >= 0")
    if step_size is not None and not 0.0 < step_size < float("inf"):
        raise ValueError(f"step_size is {step_size!r}, expected a number > 0")
    code = code.detach()
    inside = box.like(code).clamp(code)
    if not bool(((inside - code).abs() <= ROUNDING).all()):
        raise ValueError(
            f"code has values up to {float((inside - code).abs().max()):g} outside the box,"
            " expected codes in it"
        )
    return inside
