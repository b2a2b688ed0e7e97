"""The four claims of Stutz et al. 2019, decided from the models of the on-manifold experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hcnn_fast.evaluation import Proportion
from hcnn_fast.evaluation.regression import Estimate, Regression, mean, median, regression
from hcnn_fast.experiments.claim import Claim
from hcnn_fast.experiments.on_manifold_measures import Measures
from hcnn_fast.experiments.on_manifold_settings import NORMAL, ON_MANIFOLD, REGULAR, Cell

Cells = Mapping[Cell, Measures]


def share(true: Tensor) -> Proportion:  # [n] bool
    """How many hold, of all."""
    return Proportion(int(true.sum()), len(true))


def error(measures: Measures) -> Proportion:
    """Test images that are classified wrong."""
    return share(measures.wrong)


def worst(hits: Tensor, measures: Measures) -> Proportion:  # hits [P, S]
    """Points classified right of which some restart succeeds."""
    return share(hits[measures.right].any(1))


def average(hits: Tensor, measures: Measures) -> float:  # hits [P, S]
    """Share of restarts that succeed, of points classified right: the rate of the source."""
    kept = hits[measures.right]
    return float(kept.double().mean()) if len(kept) else math.nan


def leaves(cells: Cells) -> Claim:
    """Claim 1, by the projection onto the manifold itself, point by point."""
    off = per_point(cells, lambda m: m.off_projected)  # [Q]
    on = per_point(cells, lambda m: m.on_projected)  # [Q]
    farther = share(off > on)
    return Claim(
        text="regular adversarial examples leave the manifold",
        figures={
            "points whose regular example is farther from the manifold": farther,
            "median distance, regular": median(off.tolist()),
            "median distance, on-manifold": median(on.tolist()),
        },
        held=farther.interval[0] > 0.5 if farther.total else None,
        because=f"On normal models {farther} of the points are farther from the manifold after the"
        " regular attack than after the on-manifold one, by projection; it holds if the interval"
        " lies above one half.",
    )


def exists(cells: Cells) -> Claim:
    """Claim 2: the least success on any normal model."""
    rates = [worst(m.on, m) for cell, m in cells.items() if cell.method == NORMAL]
    text = "on-manifold adversarial examples exist"
    rates = [rate for rate in rates if rate.total]
    if not rates:
        return Claim(text=text, because="No normal model gets any point right.", held=None)
    least = min(rates, key=lambda rate: rate.interval[0])
    return Claim(
        text=text,
        figures={"least success rate on a normal model": least},
        held=True if least.count else None,
        because=f"Of all normal models the least has {least} of its points with one; it holds if"
        " every normal model has some. Attacks cannot show that there are none.",
    )


def generalizes(cells: Cells) -> Claim:
    """Claim 3: success on the manifold goes with the error, and training there lowers it."""
    line = line_through(cells, lambda m: worst(m.on, m).value)
    gains = _differences(cells, ON_MANIFOLD, lambda m: error(m).value)
    gain = mean(gains)
    text = "on-manifold robustness is generalization, and training for it boosts generalization"
    if line is None:
        return Claim(
            text=text,
            because=f"With {len(cells)} models there is no regression.",
            held=None,
            figures={"change of test error": gain},
        )
    correlation = line.correlation
    return Claim(
        text=text,
        figures={
            "correlation of on-manifold success and test error": correlation,
            "change of test error by on-manifold AT": gain,
        },
        held=_both(_above(correlation), _below(gain)),
        because=f"Over {len(cells)} models the correlation of on-manifold success and test error is"
        f" {correlation}; on-manifold training changes the test error by {gain} on average of"
        f" {gain.count} pairs of models. It holds if the first interval is above 0 and the second"
        " below.",
    )


def no_contradiction(cells: Cells) -> Claim:
    """Claim 4: regular training lowers regular success without raising the error."""
    harder = mean(_differences(cells, REGULAR, lambda m: worst(m.off, m).value))
    worse = mean(_differences(cells, REGULAR, lambda m: error(m).value))
    line = line_through(cells, lambda m: worst(m.off, m).value)
    measured: dict[str, Proportion | Estimate] = {
        "change of regular success by regular AT": harder,
        "change of test error by regular AT": worse,
    }
    if line is not None:
        measured["correlation of regular success and test error"] = line.correlation
    raised = _above(worse)
    return Claim(
        text="regular robustness and generalization are not necessarily contradictory",
        figures=measured,
        held=_both(_below(harder), None if raised is None else not raised),
        because=f"Regular training changes the success of regular attacks by {harder} and the test"
        f" error by {worse} ({worse.count} pairs of models). It holds if the first interval is"
        " below 0 and the second not above 0, and is left open where the second includes 0.",
    )


def _above(estimate: Estimate) -> bool | None:
    """Whether a number is above 0; None where its interval includes 0 or says nothing."""
    return None if not estimate.low > 0.0 and not estimate.high < 0.0 else estimate.low > 0.0


def _below(estimate: Estimate) -> bool | None:
    """Whether a number is below 0; None as for `_above`."""
    above = _above(estimate)
    return None if above is None else not above


def _both(first: bool | None, second: bool | None) -> bool | None:
    """Whether two things hold: no if either does not, open if either is."""
    if first is False or second is False:
        return False
    return True if first and second else None


def _differences(cells: Cells, method: str, value: Callable[[Measures], float]) -> list[float]:
    """What a method changes, against the normal model of the same images and weights."""
    found = [
        value(measures) - value(cells[Cell(NORMAL, cell.count, cell.seed)])
        for cell, measures in cells.items()
        if cell.method == method and Cell(NORMAL, cell.count, cell.seed) in cells
    ]
    return [difference for difference in found if not math.isnan(difference)]


def line_through(cells: Cells, value: Callable[[Measures], float]) -> Regression | None:
    """The line of test errors over a success rate; None with fewer than three models."""
    pairs = [(value(m), error(m).value) for m in cells.values()]
    pairs = [pair for pair in pairs if not math.isnan(pair[0])]
    return regression(*zip(*pairs, strict=True)) if len(pairs) >= 3 else None


def per_point(cells: Cells, value: Callable[[Measures], Tensor]) -> Tensor:  # [P] or [Q]
    """The mean over normal models for each point, so that points count once; NaN left out."""
    every = [value(m).double() for cell, m in cells.items() if cell.method == NORMAL]
    return torch.stack(every).nanmean(0) if every else torch.empty(0, dtype=torch.float64)
