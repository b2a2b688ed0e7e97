"""The runs that a problem asks for: one, two, or other opinions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hcnn_fast.config import SearchConfig
from hcnn_fast.engine.ascent import ascend
from hcnn_fast.engine.ball import Ball, Candidates
from hcnn_fast.engine.climb import Ascent, Climb
from hcnn_fast.engine.memory import in_batches
from hcnn_fast.engine.model import PreparedModel
from hcnn_fast.engine.nearest import approach
from hcnn_fast.engine.slopes import Slope, objective

# Runs of a candidate: from which other start (0: its own), and how long its steps are, times those
# that the problem asks for. All in a group are made together, those from its own start first; the
# last of the first opinions in a lower precision only, where a run costs less.
FIRST = (0, 1.0)
OPINIONS = ((0, 0.7), (1, 1.0), (2, 2.0))
FURTHER_OPINIONS = ((3, 1.0), (4, 1.0), (5, 2.0))
AGREED = 0.15  # of the tolerance: how near to each other the two highest values have to be
LOWER_SHARE = 1.5  # of the tolerance that may be in reach where last steps in full precision follow
# Steps in full precision after runs in a lower one, times the radius, and how many runs make them:
# so many times the tolerance may they lie behind the best.
ENDED, BEHIND = 2, 1.0
LAST_STEPS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
EXACT_WEIGHT = 2  # activations of such a step, in units of one in a lower precision

Manners = tuple[tuple[int, float], ...]
Elsewhere = Callable[[Tensor, int], Tensor]  # rows [b] and a number from 1 on: points [b, *image]


class Climber:
    """Runs candidates through a prepared model as a problem asks for (see `hcnn_fast.search`).

    Args:
        model: gives the logits.
        config: the problem.
        batch: candidates that pass the model at once.

    Attributes:
        first: what the first run climbs and how.
        batch: shrinks when memory fails.
    """

    def __init__(self, model: PreparedModel, config: SearchConfig, batch: int) -> None:
        self.model = model
        self.config = config
        self.batch = batch
        entropy = config.objective == "entropy"
        self.first = Climb(
            kind="negative_entropy" if entropy else "log_probability",
            order=1.0 if config.order is None else config.order,
            step_sizes=config.step_sizes(),
            momentum=config.momentum,
            tolerance=config.tolerance if config.objective in ("mcn", "hcnn") else 0.0,
        )

    def climb(
        self,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None = None,
        floor: Tensor | None = None,  # [B]
        elsewhere: Elsewhere | None = None,
    ) -> Ascent:
        """Best point of each candidate, with its logits in full precision.

        Args:
            candidates: B runs, at least one.
            ball: what they may not leave.
            first: the slope of the first run's objective where they start, if it is known of all.
            floor: probabilities that they must be able to pass to go on.
            elsewhere: other points that some of them may start from; with a tolerance only.
        """
        if elsewhere is None or self.first.tolerance == 0.0:
            found, _ = self._run(candidates, ball, first, floor)
        else:
            found = self._agreed(candidates, ball, first, floor, elsewhere)
        exact = not self.model.lowered or self.first.tolerance > 0.0
        if self.config.confidence is not None or self.config.distance_weight > 0.0:
            found = self._with_second_run(found, candidates, ball)
            exact = not self.model.lowered
        return found if exact else self._rescored(found)

    def _run(
        self,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        floor: Tensor | None,  # [B]
        runs: int = 1,
    ) -> tuple[Ascent, Tensor]:
        """The best of `runs` runs of each of b candidates, B = runs * b; the second values [b].

        With a tolerance, the best in a lower precision make their last steps in full precision:
        where a gradient is nearly 0, the lower one gets its sign wrong.
        """
        climb = self.first
        ends = self.model.lowered and climb.tolerance > 0.0
        lower = replace(climb, share=LOWER_SHARE) if ends else climb

        def run(rows: slice) -> Ascent:
            return ascend(
                self.model.fast,
                candidates.rows(rows),
                ball,
                lower,
                first=None if first is None else first.rows(rows),
                floor=None if floor is None else floor[rows],
            )

        found = self._in_batches(len(candidates), run)
        if ends:
            return self._with_last_steps(found, candidates, ball, floor, runs)
        return found.best_of(runs)

    def _with_last_steps(
        self,
        found: Ascent,
        candidates: Candidates,
        ball: Ball,
        floor: Tensor | None,  # [B]
        runs: int,
    ) -> tuple[Ascent, Tensor]:
        """The best after last steps of such runs in a lower precision; the second values [b]."""
        each, kept = len(candidates) // runs, min(runs, ENDED)
        which = torch.arange(each, device=candidates.index.device).repeat(kept)
        chosen = kept < runs  # by values in full precision; others are not exact enough
        if chosen:
            climb = self.first
            found = self._rescored(found)
            label, backend = candidates.label, ball.backend
            value, _ = objective(found.logits, label, climb.kind, climb.order, backend)
            found = replace(found, value=value).highest(kept, runs)
            rows = self._unfinished(found.value.exp().view(kept, each))
        else:
            rows = torch.arange(len(which), device=which.device)
        if not len(rows):
            return found.best_of(kept)
        which = which[rows]
        ending = Candidates(
            index=candidates.index[which],
            label=candidates.label[which],
            point=found.point[rows],
        )
        passed = None if floor is None else floor[which]
        sizes = tuple(length * self.config.radius for length in LAST_STEPS)
        last = replace(self.first, step_sizes=sizes, momentum=0.0)

        def end(part: slice) -> Ascent:
            least = None if passed is None else passed[part]
            return ascend(self.model.exact, ending.rows(part), ball, last, floor=least)

        ended = self._in_batches(len(ending), end, EXACT_WEIGHT)
        found = found.or_better(ended, rows) if chosen else found.then(ended)
        return found.best_of(kept)

    def _unfinished(self, probability: Tensor) -> Tensor:  # [kept, b], best first -> [B] int64
        """Runs whose last steps could change what was found."""
        climb, best = self.first, probability[0]
        improvable = best < 1.0 - climb.share * climb.tolerance
        near_the_best = probability >= best - BEHIND * climb.tolerance
        return (improvable & near_the_best).flatten().nonzero()[:, 0]

    def _agreed(
        self,
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        floor: Tensor | None,  # [B]
        elsewhere: Elsewhere,
    ) -> Ascent:
        """The best of several runs, more of them where the two highest values do not agree.

        Where a network bends, another way up may end on a higher top. The highest of several, if it
        was found twice, is believed. The runs that a tolerance has cut short pay for it.
        """
        tolerance = self.first.tolerance
        opinions = OPINIONS if self.model.lowered else OPINIONS[:-1]

        def several(
            manners: Manners, rows: Tensor, floor: Tensor | None = None
        ) -> tuple[Ascent, Tensor]:
            return self._several(manners, rows, candidates, ball, first, floor, elsewhere)

        every = torch.arange(len(candidates), device=candidates.index.device)
        if floor is None:
            found, second = several((FIRST, *opinions), every)
        else:  # most end because they cannot pass it
            found, second = several((FIRST,), every, floor)
            rows = (found.value.exp() > floor).nonzero()[:, 0]
            if len(rows):
                found, second = _joined(found, second, *several(opinions, rows), rows)
        highest = found.value.exp()
        asked = (highest - second.exp() > AGREED * tolerance) & (highest < 1.0 - tolerance)
        if floor is not None:
            asked &= highest > floor
        rows = asked.nonzero()[:, 0]
        if len(rows):
            found, _ = _joined(found, second, *several(FURTHER_OPINIONS, rows), rows)
        return found

    def _several(
        self,
        manners: Manners,
        rows: Tensor,  # [b] int64
        candidates: Candidates,
        ball: Ball,
        first: Slope | None,
        floor: Tensor | None,  # [B]
        elsewhere: Elsewhere,
    ) -> tuple[Ascent, Tensor]:
        """The best of several runs of some candidates, and the second highest values [b]."""
        count = len(manners)
        kept: list[tuple[Ascent, Tensor]] = []

        def run(begin: int, end: int) -> None:
            which = rows[begin:end]
            some = candidates.rows(which)
            points = [elsewhere(which, start) if start else some.point for start, _ in manners]
            pace = torch.tensor([pace for _, pace in manners]).to(some.point)
            together = Candidates(
                index=some.index.repeat(count),
                label=some.label.repeat(count),
                point=torch.cat(points),
                pace=pace.repeat_interleave(len(which)),
            )
            known = None
            if first is not None:
                here = sum(start == 0 for start, _ in manners)
                known = first.rows(which.repeat(here))
            passed = None if floor is None else floor[which].repeat(count)
            kept.append(self._run(together, ball, known, passed, count))

        in_batches(len(rows), max(1, self.batch // count), run)
        found, second = zip(*kept, strict=True)
        return Ascent.cat(found), torch.cat(second)

    def _with_second_run(self, found: Ascent, candidates: Candidates, ball: Ball) -> Ascent:
        """From the most confident point: towards the image, or weighed against the distance."""
        config = self.config
        climb = Climb(
            kind="probability",
            step_sizes=config.step_sizes(second_run=True),
            momentum=config.momentum,
            distance_weight=config.distance_weight,
            norm=config.distance_norm,
        )

        def run(rows: slice) -> Ascent:
            some = candidates.rows(rows).at(found.point[rows])
            if config.confidence is None:
                return ascend(self.model.fast, some, ball, climb)
            return approach(
                self.model.exact,
                some,
                ball,
                confidence=config.confidence,
                steps=config.steps,
                norm=config.distance_norm,
            )

        exact = self.model.lowered and config.confidence is not None
        weight = EXACT_WEIGHT if exact else 1
        return found.then(self._in_batches(len(candidates), run, weight))

    def _rescored(self, found: Ascent) -> Ascent:
        """The same points with logits in full precision."""
        logits: list[Tensor] = []

        def run(begin: int, end: int) -> None:
            with torch.no_grad():
                logits.append(self.model.exact(found.point[begin:end]))

        self.batch = in_batches(len(found.point), self.batch, run)
        return replace(found, logits=torch.cat(logits), forwards=found.forwards + len(found.point))

    def _in_batches(self, count: int, run: Callable[[slice], Ascent], weight: int = 1) -> Ascent:
        """All of `count` candidates, as many at a time as memory suffices for.

        A candidate that weighs more takes so many times what one of the search does.
        """
        parts: list[Ascent] = []
        size = max(1, self.batch // weight)
        done = in_batches(count, size, lambda begin, end: parts.append(run(slice(begin, end))))
        if done < size:
            self.batch = done * weight
        return Ascent.cat(parts)


def _joined(
    found: Ascent,  # B runs
    second: Tensor,  # [B]
    others: Ascent,  # b runs
    their_second: Tensor,  # [b]
    rows: Tensor,  # [b] int64
) -> tuple[Ascent, Tensor]:
    """The better of some runs and others, and the second highest of all their values."""
    lower = torch.minimum(found.value[rows], others.value)
    next_to_it = torch.maximum(torch.maximum(second[rows], their_second), lower)
    return found.or_better(others, rows), second.index_copy(0, rows, next_to_it)
