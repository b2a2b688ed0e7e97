"""What the models of the on-manifold experiment say about the four claims of its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnn_fast.evaluation import Proportion
from hcnn_fast.evaluation.regression import (
    RESAMPLES,
    Estimate,
    Regression,
    mean,
    median,
    regression,
)
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.experiment import Drawing, Findings, TextTable
from hcnn_fast.experiments.on_manifold_measures import Measures
from hcnn_fast.experiments.on_manifold_settings import (
    METHODS,
    NORMAL,
    ON_MANIFOLD,
    REGULAR,
    Cell,
    OnManifoldSettings,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = Mapping[Cell, Measures]


@dataclass(frozen=True)
class Claim:
    """One claim of the source's abstract, and what was measured of it.

    Attributes:
        text: the claim.
        figures: what was measured, by name.
        held: True or False; None where the intervals leave it open.
        because: what decides, in a sentence.
    """

    text: str
    figures: Mapping[str, Proportion | Estimate]
    held: bool | None
    because: str

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "held", False: "did not hold", None: "left open"}[self.held]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "claim": self.text,
            "verdict": self.verdict,
            "because": self.because,
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
        }


def error(measures: Measures) -> Proportion:
    """Test images that are classified wrong."""
    return _share(measures.wrong)


def worst(hits: Tensor, measures: Measures) -> Proportion:  # hits [P, S]
    """Points classified right of which some restart succeeds."""
    return _share(hits[measures.right].any(1))


def average(hits: Tensor, measures: Measures) -> float:  # hits [P, S]
    """Share of restarts that succeed, of points classified right: the rate of the source."""
    kept = hits[measures.right]
    return float(kept.double().mean()) if len(kept) else math.nan


def findings(
    cells: Cells,
    settings: OnManifoldSettings,
    *,
    classes: int,
    known: bool,
) -> Findings:
    """Errors, success rates, residuals and their regression, and the four claims.

    Args:
        cells: the models that are done, one or more.
        settings: of the experiment.
        classes: of the data.
        known: whether the manifold is known, and not learned.
    """
    claims = (_leaves(cells), _exists(cells), _generalizes(cells), _no_contradiction(cells))
    lines = {
        "off-manifold": _regression(cells, lambda m: worst(m.off, m).value),
        "on-manifold": _regression(cells, lambda m: worst(m.on, m).value),
    }
    rulers = _rulers(cells)
    return Findings(
        tables=(
            _claim_table(claims),
            _model_table(cells),
            _mean_table(cells),
            _ruler_table(rulers, settings, known=known),
            _line_table(lines),
        ),
        reading=tuple(
            f"Claim {n}: {claim.text}: {claim.verdict}. {claim.because}"
            for n, claim in enumerate(claims, 1)
        )
        + _untrained(cells, 1.0 - 1.0 / classes),
        numbers={
            "claims": [claim.to_dict() for claim in claims],
            "models": [_numbers(cell, measures) for cell, measures in cells.items()],
            "residuals": {name: value.to_dict() for name, value in rulers.items()},
            "regression": {
                name: {
                    "slope": line.slope.to_dict(),
                    "correlation": line.correlation.to_dict(),
                    "intercept": None if line.intercept != line.intercept else line.intercept,
                }
                for name, line in lines.items()
                if line is not None
            },
        },
        drawings=_drawings(cells),
    )


def _leaves(cells: Cells) -> Claim:
    """Claim 1, by the projection onto the manifold itself, point by point."""
    off = _per_point(cells, lambda m: m.off_projected)  # [Q]
    on = _per_point(cells, lambda m: m.on_projected)  # [Q]
    farther, low = _share(off > on), _share(off > on).interval[0]
    return Claim(
        "regular adversarial examples leave the manifold",
        {
            "points whose regular example is farther from the manifold": farther,
            "median distance, regular": median(off.tolist()),
            "median distance, on-manifold": median(on.tolist()),
        },
        low > 0.5 if farther.total else None,
        f"On normal models {farther} of the points are farther from the manifold after the regular"
        " attack than after the on-manifold one, by projection; it holds if the interval lies"
        " above one half.",
    )


def _exists(cells: Cells) -> Claim:
    """Claim 2: the least success on any normal model."""
    rates = [worst(m.on, m) for cell, m in cells.items() if cell.method == NORMAL]
    text = "on-manifold adversarial examples exist"
    rates = [rate for rate in rates if rate.total]
    if not rates:
        return Claim(text, {}, None, "No normal model gets any point right.")
    least = min(rates, key=lambda rate: rate.interval[0])
    return Claim(
        text,
        {"least success rate on a normal model": least},
        True if least.count else None,
        f"Of all normal models the least has {least} of its points with one; it holds if every"
        " normal model has some. Attacks cannot show that there are none.",
    )


def _generalizes(cells: Cells) -> Claim:
    """Claim 3: success on the manifold goes with the error, and training there lowers it."""
    line = _regression(cells, lambda m: worst(m.on, m).value)
    gains = _differences(cells, ON_MANIFOLD, lambda m: error(m).value)
    gain = mean(gains)
    text = "on-manifold robustness is generalization, and training for it boosts generalization"
    if line is None:
        return Claim(text, {"change of test error": gain}, None, _too_few(cells))
    correlation = line.correlation
    return Claim(
        text,
        {
            "correlation of on-manifold success and test error": correlation,
            "change of test error by on-manifold AT": gain,
        },
        _both(_above(correlation), _below(gain)),
        f"Over {len(cells)} models the correlation of on-manifold success and test error is"
        f" {correlation}; on-manifold training changes the test error by {gain} on average of"
        f" {gain.count} pairs of models. It holds if the first interval is above 0 and the second"
        " below.",
    )


def _no_contradiction(cells: Cells) -> Claim:
    """Claim 4: regular training lowers regular success without raising the error."""
    harder = mean(_differences(cells, REGULAR, lambda m: worst(m.off, m).value))
    worse = mean(_differences(cells, REGULAR, lambda m: error(m).value))
    line = _regression(cells, lambda m: worst(m.off, m).value)
    measured: dict[str, Proportion | Estimate] = {
        "change of regular success by regular AT": harder,
        "change of test error by regular AT": worse,
    }
    if line is not None:
        measured["correlation of regular success and test error"] = line.correlation
    raised = _above(worse)
    return Claim(
        "regular robustness and generalization are not necessarily contradictory",
        measured,
        _both(_below(harder), None if raised is None else not raised),
        f"Regular training changes the success of regular attacks by {harder} and the test error by"
        f" {worse} ({worse.count} pairs of models). It holds if the first interval is below 0 and"
        " the second not above 0, and is left open where the second includes 0.",
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


def _regression(cells: Cells, value: Callable[[Measures], float]) -> Regression | None:
    """The line of test errors over a success rate; None with fewer than three models."""
    pairs = [(value(m), error(m).value) for m in cells.values()]
    pairs = [pair for pair in pairs if not math.isnan(pair[0])]
    return regression(*zip(*pairs, strict=True)) if len(pairs) >= 3 else None


def _per_point(cells: Cells, value: Callable[[Measures], Tensor]) -> Tensor:  # [P] or [Q]
    """The mean over normal models for each point, so that points count once; NaN left out."""
    every = [value(m).double() for cell, m in cells.items() if cell.method == NORMAL]
    return torch.stack(every).nanmean(0) if every else torch.empty(0, dtype=torch.float64)


def _rulers(cells: Cells) -> dict[str, Estimate]:
    """Medians over points of all distances and angles."""
    degrees = 180.0 / math.pi
    values: dict[str, Callable[[Measures], Tensor]] = {
        "image, from the span": lambda m: m.image_residual,
        "regular example, from the span": lambda m: m.off_residual,
        "on-manifold example, from the span": lambda m: m.on_residual,
        "regular perturbation, angle to the span (degrees)": lambda m: m.off_angle * degrees,
        "on-manifold perturbation, angle to the span (degrees)": lambda m: m.on_angle * degrees,
        "regular perturbation, l2 size": lambda m: m.off_size,
        "regular example, by projection": lambda m: m.off_projected,
        "on-manifold example, by projection": lambda m: m.on_projected,
    }
    points = {name: _per_point(cells, value) for name, value in values.items()}
    return {name: median(row[~row.isnan()].tolist()) for name, row in points.items()}


def _claim_table(claims: Sequence[Claim]) -> TextTable:
    rows = []
    for n, claim in enumerate(claims, 1):
        lines = "\n".join(f"{name}: {figure}" for name, figure in claim.figures.items())
        rows.append((str(n), claim.text, claim.verdict, lines))
    return TextTable(
        title="The four claims of the abstract",
        columns=("", "claim", "verdict", "measured"),
        rows=tuple(rows),
        notes=(
            "Rates: exact 95% intervals (Clopper-Pearson). Other numbers: 95% percentile intervals"
            f" of {RESAMPLES} bootstrap resamples, over models or pairs of models, medians over"
            " points.",
        ),
    )


def _model_table(cells: Cells) -> TextTable:
    return TextTable(
        title="Every model",
        columns=(
            "method",
            "N",
            "seed",
            "test error",
            "regular success",
            "mean",
            "on-manifold success",
            "mean",
        ),
        rows=tuple(
            (
                cell.method,
                str(cell.count),
                str(cell.seed),
                str(error(m)),
                str(worst(m.off, m)),
                f"{average(m.off, m):.1%}",
                str(worst(m.on, m)),
                f"{average(m.on, m):.1%}",
            )
            for cell, m in cells.items()
        ),
        notes=(
            "Success: of the points whose image on the manifold is classified right, those that"
            " some restart makes wrong; beside it the mean over restarts, as the source counts.",
        ),
    )


def _mean_table(cells: Cells) -> TextTable:
    rows = []
    for method in METHODS:
        for count in sorted({cell.count for cell in cells}):
            some = [m for c, m in cells.items() if (c.method, c.count) == (method, count)]
            if some:
                off = [r for r in (worst(m.off, m).value for m in some) if not math.isnan(r)]
                on = [r for r in (worst(m.on, m).value for m in some) if not math.isnan(r)]
                errors = mean([error(m).value for m in some])
                row = (str(errors), str(mean(off)), str(mean(on)), str(len(some)))
                rows.append((method, str(count), *row))
    return TextTable(
        title="Means over seeds",
        columns=("method", "N", "test error", "regular success", "on-manifold success", "models"),
        rows=tuple(rows),
        notes=("Intervals over few seeds are too narrow; they are nearer to a range.",),
    )


def _ruler_table(
    rulers: Mapping[str, Estimate], settings: OnManifoldSettings, *, known: bool
) -> TextTable:
    surface = "the known manifold" if known else "the learned manifold, not that of the data"
    return TextTable(
        title="Distances from the manifold, in pixel units: medians over points, normal models",
        columns=("what", "median"),
        rows=tuple((name, str(value)) for name, value in rulers.items()),
        notes=(
            f"The span is that of the 50 nearest of {settings.samples} training images around their"
            " mean, the same for a point before and after an attack; singular values up to 1e-6 of"
            " the largest are no directions. A step along a bent manifold leaves it too.",
            f"Projection minimises the l2 distance to {surface} from 8 starts, the class held, for"
            f" the first {settings.projected} points: an upper bound of the distance.",
        ),
    )


def _line_table(lines: Mapping[str, Regression | None]) -> TextTable:
    return TextTable(
        title="Test error over worst-case success rate, all models",
        columns=("success", "slope", "correlation", "intercept"),
        rows=tuple(
            (name, str(line.slope), str(line.correlation), f"{line.intercept:.3g}")
            for name, line in lines.items()
            if line is not None
        ),
    )


def _numbers(cell: Cell, m: Measures) -> dict[str, Any]:
    off, on = average(m.off, m), average(m.on, m)
    return {
        "method": cell.method,
        "count": cell.count,
        "seed": cell.seed,
        "error": error(m).to_dict(),
        "off": worst(m.off, m).to_dict(),
        "on": worst(m.on, m).to_dict(),
        "off_mean": None if math.isnan(off) else off,
        "on_mean": None if math.isnan(on) else on,
    }


def _drawings(cells: Cells) -> tuple[Drawing, ...]:
    def groups(hits: Callable[[Measures], Tensor]) -> dict[str, tuple[list[float], list[float]]]:
        return {
            method: (
                [worst(hits(m), m).value for c, m in cells.items() if c.method == method],
                [error(m).value for c, m in cells.items() if c.method == method],
            )
            for method in METHODS
        }

    def dots() -> Figure:
        panels = {
            "regular attack": groups(lambda m: m.off),
            "on-manifold attack": groups(lambda m: m.on),
        }
        return figures.scatter(panels, x_label="worst-case success rate", y_label="test error")

    def residuals() -> Figure:
        span = {
            "images": _per_point(cells, lambda m: m.image_residual).tolist(),
            "regular": _per_point(cells, lambda m: m.off_residual).tolist(),
            "on-manifold": _per_point(cells, lambda m: m.on_residual).tolist(),
        }
        projected = {
            "images": [],
            "regular": _per_point(cells, lambda m: m.off_projected).tolist(),
            "on-manifold": _per_point(cells, lambda m: m.on_projected).tolist(),
        }
        return figures.distributions(
            {"span of 50 neighbours": span, "projection": projected},
            labels=("l2 distance from the span", "l2 distance from the manifold"),
        )

    return (
        Drawing("success", "Test error and success of attacks; a dot is a model.", dots),
        Drawing("residuals", "Distances from the manifold, means over normal models.", residuals),
    )


def _share(true: Tensor) -> Proportion:  # [n] bool
    return Proportion(int(true.sum()), len(true))


def _untrained(cells: Cells, chance: float) -> tuple[str, ...]:
    """A warning where models have learned nothing, which all numbers suffer from."""
    names = [cell.name for cell, m in cells.items() if error(m).interval[1] >= chance]
    if not names:
        return ()
    return (
        f"{len(names)} of {len(cells)} models are not shown to be better than chance"
        f" ({', '.join(names)}): they need more updates or a smaller radius, and say nothing about"
        " the claims.",
    )


def _too_few(cells: Cells) -> str:
    return f"With {len(cells)} models there is no regression."
