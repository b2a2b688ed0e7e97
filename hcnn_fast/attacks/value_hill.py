"""The value function of a defence's search as a hill: heights, and slopes by Danskin's theorem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast import ops
from hcnn_fast.attacks.defended import Aim, has_values, height_of
from hcnn_fast.attacks.losses import log_odds
from hcnn_fast.attacks.runs import Problem, Runs
from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ball import Ball, Candidates, distance
from hcnn_fast.engine.climber import Climber
from hcnn_fast.engine.slopes import slope

# Share of the full gradient where the bounds leave none: enough for a sign.
BESIDE = 1e-3


@dataclass(frozen=True)
class Peaks:
    """The best points of W labels for E seeds in the search's balls around R points.

    Attributes:
        point: [R, W, E, *image].
        odds: [R, W, E] log odds of the label there.
        penalty: [R, W, E] lambda |z - x|, or None.
        height: [R, W, E] logit(v_l).
    """

    point: Tensor
    odds: Tensor
    penalty: Tensor | None
    height: Tensor


class ValueHill:
    """What rises for a goal against a defence, at moving points x', one for each of R runs.

    v_l(x') = max F_l(z) - lambda |z - x'| over z in the search's ball around x' and the bounds. By
    Danskin's theorem its gradient is that of F_l at the maximiser. An entry of the maximiser that
    the bounds hold back, while the ball would let it go on, does not follow x': there the gradient
    is 0 (without a distance term, exactly). Where it is so for all values together, a small share
    of the gradient through the identity decides the sign, which leads off such plateaus.

    The maximisers are followed from point to point. What is searched is what the defence searches;
    for NCN and the entropy search the MCN of the same ball stands in.

    Args:
        problem: the base model and the images.
        runs: R runs; label y, and as target the label to be gained, or y for any other.
        config: the defence's.
        aim: what rises.
        steps: of each search after the first, which is the defence's own.
        expectation: E, seeds of the search's random starts over which the gradient is averaged.
        any_label: whether the runs try all labels, W = C, or target and y, W = 2.

    Attributes:
        backwards: gradients of single images so far.
    """

    def __init__(
        self,
        problem: Problem,
        runs: Runs,
        config: SearchConfig,
        aim: Aim,
        *,
        steps: int,
        expectation: int = 1,
        any_label: bool,
    ) -> None:
        self._problem, self._aim = problem, aim
        if not has_values(config):
            config = config.replace(objective="mcn", confidence=None, order=None, labels=None)
        config = config.replace(tolerance=0.0)
        # A search of no more steps is followed as it is: it need not come near a maximum.
        self._follows = steps < config.steps
        self._first = Climber(problem.model, config, problem.batch)
        self._next = self._first
        if self._follows:
            self._next = Climber(
                problem.model, config.replace(steps=steps, step_size=None), problem.batch
            )
        self._config, self._seeds = config, expectation
        self._labels = torch.stack([runs.target, runs.label], 1)  # [R, W]
        if any_label:
            self._labels = torch.arange(problem.classes, device=runs.label.device)
            self._labels = self._labels.expand(len(runs), -1)
        self._own = self._labels == runs.label[:, None]  # [R, W]
        self._offset: Tensor | None = None  # [R * W * E, *image] of the maximisers so far
        self.backwards = 0

    def slope(
        self,
        point: Tensor,  # [R, *image]
    ) -> tuple[Tensor, Tensor]:  # [R], [R, *image]
        """What rises, and its gradient."""
        peaks = self._peaks(point)
        gain, lose, rise, certainty_binds = self._compared(peaks)
        # [R, 2, E]: the weight of the gaining label's height and of that of y
        weight = torch.ones_like(rise)[:, None].repeat(1, 2, 1)
        weight[:, 1] = torch.where(certainty_binds, 0.0, -1.0)
        if self._aim.goal == "rejection":
            weight[:, 0] = -1.0
        chosen = torch.stack([gain, lose], 1)  # [R, 2, E]
        return rise.mean(1), self._gradient(point, peaks, chosen, weight)

    def value(
        self,
        point: Tensor,  # [R, *image]
    ) -> Tensor:  # [R]
        """What rises, without its gradient."""
        return self._compared(self._peaks(point))[2].mean(1)

    def _compared(self, peaks: Peaks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Positions of the gaining label and of y, what rises, and whether only confidence binds.

        All are [R, E]. For "rejection" the gaining label is the winner, whatever it is.
        """
        lose = self._own.int().argmax(1)[:, None].expand(-1, self._seeds)  # [R, E]
        others = peaks.height
        if self._aim.goal != "rejection":
            others = others.masked_fill(self._own[:, :, None], -torch.inf)
        top = others.max(1)
        margin = top.values - peaks.height.gather(1, lose[:, None])[:, 0]
        certainty = peaks.odds.gather(1, top.indices[:, None])[:, 0]
        rise = self._aim.rise(margin, certainty)
        if self._aim.goal == "rejection":
            return top.indices, lose, rise, torch.ones_like(rise, dtype=torch.bool)
        return top.indices, lose, rise, rise < margin

    def _gradient(
        self,
        point: Tensor,  # [R, *image]
        peaks: Peaks,
        chosen: Tensor,  # [R, 2, E] positions of labels
        weight: Tensor,  # [R, 2, E] of their heights
    ) -> Tensor:  # [R, *image]
        """The mean over seeds of the gradient of the weighted heights in x'."""
        run = torch.arange(len(point), device=point.device)[:, None, None]
        seed = torch.arange(self._seeds, device=point.device)
        z = peaks.point[run, chosen, seed].flatten(0, 2)  # [R * 2 * E, *image]
        label = self._labels.gather(1, chosen.flatten(1)).flatten()
        problem = self._problem
        at = slope(problem.model.fast, z, label, "log_odds", 1.0, problem.backend)
        self.backwards += len(z)
        penalty = None
        if peaks.penalty is not None:
            penalty = peaks.penalty.gather(1, chosen).flatten()
        _, chain = height_of(at.value, penalty)
        factor = (weight.flatten() * chain).view((-1,) + (1,) * (z.ndim - 1))
        full = at.gradient.nan_to_num(nan=0.0) * factor
        low, high = self._config.bounds
        centre, radius = point.repeat_interleave(len(z) // len(point), 0), self._config.radius
        held = ((z >= high) & (centre + radius > high)) | ((z <= low) & (centre - radius < low))
        shape = (len(point), -1, *point.shape[1:])
        followed = full.masked_fill(held, 0.0).view(shape).sum(1)
        gradient = torch.where(followed == 0.0, BESIDE * full.view(shape).sum(1), followed)
        return gradient / self._seeds

    def _peaks(
        self,
        point: Tensor,  # [R, *image]
    ) -> Peaks:
        """The maximisers around x': from those of the last point, from x' itself, from chance."""
        config, ball = self._config, self._ball(point)
        candidates = self._candidates(ball)
        climber = self._first if self._offset is None else self._next
        found = climber.climb(candidates, ball)
        self.backwards += found.backwards
        odds = log_odds(found.logits, candidates.label)  # [R * W * E * S]
        penalty = None
        if config.distance_weight > 0.0:
            away = distance(found.point, ball, candidates.index, config.distance_norm)
            penalty = config.distance_weight * away
        height, _ = height_of(odds, penalty)
        top = height.view(-1, config.starts).argmax(1)  # [R * W * E]
        best = top + config.starts * torch.arange(len(top), device=top.device)
        z, odds, height = found.point[best], odds[best], height[best]
        penalty = None if penalty is None else penalty[best]
        index = candidates.index[best]
        # As in the search, no label gets less than it has at x' itself.
        with torch.no_grad():
            logits = self._problem.model.fast(point)[index].to(odds.dtype)
        own = log_odds(logits, candidates.label[best])  # [R * W * E]
        stays = own > height
        z = torch.where(stays.view((-1,) + (1,) * (z.ndim - 1)), point[index], z)
        odds, height = torch.where(stays, own, odds), torch.where(stays, own, height)
        penalty = None if penalty is None else penalty.masked_fill(stays, 0.0)
        if self._follows:
            self._offset = z - point[index]
        shape = (*self._labels.shape, self._seeds)
        return Peaks(
            point=z.view(*shape, *point.shape[1:]),
            odds=odds.view(shape),
            penalty=None if penalty is None else penalty.view(shape),
            height=height.view(shape),
        )

    def _ball(self, point: Tensor) -> Ball:  # [R, *image]
        config = self._config
        return Ball(
            image=point, radius=config.radius, bounds=config.bounds, backend=self._problem.backend
        )

    def _candidates(self, ball: Ball) -> Candidates:
        """W * E * S runs of the search around every x', by label, then seed, then start.

        The first start of a seed is where its maximiser was; the others are drawn anew, keyed by
        the content of x', as the defence draws them.
        """
        config, point = self._config, ball.image
        starts, labels = config.starts, self._labels.shape[1]
        index = torch.arange(len(point), device=point.device)
        index = index.repeat_interleave(labels * self._seeds * starts)
        label = self._labels.flatten().repeat_interleave(self._seeds * starts)
        start = torch.arange(starts, device=point.device)
        start = start.repeat(len(point) * labels * self._seeds)
        content = ops.content_hash(point, backend=ball.backend)
        drawn = point.new_empty((len(point) * labels, self._seeds, starts, *point.shape[1:]))
        for seed in range(self._seeds):
            of_seed = torch.arange(len(index), device=index.device)
            of_seed = of_seed.view(-1, self._seeds, starts)[:, seed].flatten()
            drawn[:, seed] = ops.random_starts(
                point,
                content,
                index[of_seed],
                label[of_seed],
                start[of_seed],
                seed=config.seed + seed,
                radius=config.radius,
                bounds=config.bounds,
                backend=ball.backend,
            ).view(-1, starts, *point.shape[1:])
        if self._offset is not None:
            centre = point.repeat_interleave(labels * self._seeds, 0)
            # pgd_step_ brings it back into ball and bounds; its value must be that of a point there
            warm = (centre + self._offset).clamp(*config.bounds)
            warm = torch.minimum(
                torch.maximum(warm, centre - config.radius), centre + config.radius
            )
            drawn.flatten(0, 1)[:, 0] = warm
        return Candidates(index=index, label=label, point=drawn.flatten(0, 2))
