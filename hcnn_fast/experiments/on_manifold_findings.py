"""What the on-manifold experiment shows: tables, pictures, and its reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hcnn_fast.evaluation.regression import RESAMPLES, Estimate, Regression, mean, median
from hcnn_fast.experiments import figures
from hcnn_fast.experiments.claim import Claim
from hcnn_fast.experiments.experiment import Drawing, Findings, TextTable
from hcnn_fast.experiments.on_manifold_claims import (
    Cells,
    average,
    error,
    exists,
    generalizes,
    leaves,
    line_through,
    no_contradiction,
    per_point,
    worst,
)
from hcnn_fast.experiments.on_manifold_measures import Measures
from hcnn_fast.experiments.on_manifold_settings import METHODS, Cell, OnManifoldSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    claims = (leaves(cells), exists(cells), generalizes(cells), no_contradiction(cells))
    lines = {
        "off-manifold": line_through(cells, lambda m: worst(m.off, m).value),
        "on-manifold": line_through(cells, lambda m: worst(m.on, m).value),
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
        reading=tuple(f"Claim {n}: {claim.sentence}" for n, claim in enumerate(claims, 1))
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
    points = {name: per_point(cells, value) for name, value in values.items()}
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
            "images": per_point(cells, lambda m: m.image_residual).tolist(),
            "regular": per_point(cells, lambda m: m.off_residual).tolist(),
            "on-manifold": per_point(cells, lambda m: m.on_residual).tolist(),
        }
        projected = {
            "images": [],
            "regular": per_point(cells, lambda m: m.off_projected).tolist(),
            "on-manifold": per_point(cells, lambda m: m.on_projected).tolist(),
        }
        return figures.distributions(
            {"span of 50 neighbours": span, "projection": projected},
            labels=("l2 distance from the span", "l2 distance from the manifold"),
        )

    return (
        Drawing("success", "Test error and success of attacks; a dot is a model.", dots),
        Drawing("residuals", "Distances from the manifold, means over normal models.", residuals),
    )


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
