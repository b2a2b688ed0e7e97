"""The picture of `hcnn-fast bench --scaling`: a panel for each size, a line for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcnn_fast.cli.bench_scaling import ScalingPoint

# Okabe and Ito's palette: distinct to every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
FAINT = "#999999"
DOTS_PER_INCH = 150


def draw_scaling(points: Sequence[ScalingPoint], path: Path) -> None:
    """Seconds against every size, both on logarithmic axes; a faint line is proportional growth."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    sizes = list(dict.fromkeys(point.size for point in points))
    names = list(dict.fromkeys(point.model for point in points))
    figure = Figure(figsize=(3.2 * len(sizes), 3.4), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(panels, sizes, strict=True):
        for index, name in enumerate(names):
            chosen = [point for point in points if (point.size, point.model) == (size, name)]
            values = [point.value for point in chosen]
            seconds = [point.seconds for point in chosen]
            proportional = [seconds[-1] * value / values[-1] for value in values]
            axes.plot(values, proportional, color=FAINT, linewidth=0.8, linestyle=":")
            axes.plot(values, seconds, color=COLOURS[index % len(COLOURS)], marker="o", label=name)
        values = sorted({point.value for point in points if point.size == size})
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(size)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds; dotted: proportional")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
