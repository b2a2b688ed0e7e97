"""The pictures of the experiments."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from hcnn_fast.evaluation import AttemptTable, Proportion
from hcnn_fast.experiments.experiment import Drawing, Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct to every kind of colour vision.
RIGHT, WRONG = "#0072B2", "#D55E00"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
DOTS_PER_INCH = 130
LETTERS_PER_INCH = 12.0  # of a legend, on average
KEY_LETTERS = 6  # as wide as the key before a name


@dataclass(frozen=True)
class Line:
    """A curve of rates.

    Attributes:
        name: in the legend.
        x: where the rates were measured.
        rates: what was measured there.
        band: whether the intervals of the rates are drawn.
        dashed: lets a line that lies below be seen.
    """

    name: str
    x: Sequence[float]
    rates: Sequence[Proportion]
    band: bool = True
    dashed: bool = False


def png(figure: Figure) -> bytes:
    """The picture as a file; the same picture is the same file."""
    content = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata=metadata)
    return content.getvalue()


def bars(groups: Mapping[str, Mapping[str, Proportion]], label: str) -> Figure:
    """Rates as bars with their intervals: a panel for each group, a bar for each name."""
    single = {title: {k: (rate,) for k, rate in rates.items()} for title, rates in groups.items()}
    return paired_bars(single, ("",), label)


def paired_bars(
    groups: Mapping[str, Mapping[str, Sequence[Proportion]]],
    names: Sequence[str],
    label: str,
) -> Figure:
    """Rates of several classifiers side by side: a panel for each group, bars for each row."""
    rows = max(len(group) for group in groups.values())
    each = 0.34 if len(names) == 1 else 0.2 * len(names) + 0.06
    figure = _figure((9.0, 0.9 + len(groups) * (0.5 + each * rows)))
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True)[:, 0]
    height, small = 0.7 / len(names), 9 if len(names) == 1 else 8
    for axes, (title, group) in zip(panels, groups.items(), strict=True):
        for which, name in enumerate(names):
            rates = [row[which] for row in group.values()]
            place = numpy.arange(len(rates)) + (which - (len(names) - 1) / 2) * height
            values = numpy.array([rate.value for rate in rates])
            ends = numpy.array([rate.interval for rate in rates])  # [bars, 2]
            reach = numpy.abs(ends - values[:, None]).T
            axes.barh(place, values, color=COLOURS[which], height=0.92 * height, label=name)
            whiskers = {"fmt": "none", "ecolor": "#333333", "elinewidth": 1.0, "capsize": 2}
            axes.errorbar(values, place, xerr=reach, **whiskers)
            for where, rate, end in zip(place, rates, ends, strict=True):
                text = f"{rate.count}/{rate.total}"
                axes.text(min(end[1] + 0.012, 1.02), where, text, va="center", fontsize=small)
        axes.set_yticks(numpy.arange(len(group)), list(group))
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_title(title, loc="left", fontsize=10.5)
        _plain(axes)
        _rates(axes)
    panels[-1].set_xlabel(label)
    if len(names) > 1:
        handles, _ = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names), frameon=False)
    return figure


def histograms(panels: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Shares of right and of wrong answers by confidence, stacked; a panel for each name."""
    columns = 2 if len(panels) > 1 else 1
    lines = -(-len(panels) // columns)
    figure = _figure((5.0 * columns, 0.7 + 2.7 * lines))
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey="row")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, (right, wrong)) in zip(grid.flat, panels.items(), strict=False):
        total = max(len(right) + len(wrong), 1)
        axes.hist(
            [right, wrong],
            bins=numpy.linspace(0.0, 1.0, 21).tolist(),
            weights=[numpy.full(len(side), 1.0 / total) for side in (right, wrong)],
            stacked=True,
            color=[RIGHT, WRONG],
            label=["right answer", "wrong answer"],
            edgecolor="white",
            linewidth=0.4,
        )
        axes.set_title(f"{title}\n{len(right)} right, {len(wrong)} wrong", loc="left", fontsize=9.5)
        axes.set_xlim(0.0, 1.0)
        _shares(axes.yaxis)
        _plain(axes)
    for axes in grid[-1]:
        axes.set_xlabel("confidence of the answer")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of answers")
    figure.align_ylabels(grid[:, 0])
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False)
    return figure


def curves(
    panels: Mapping[str, Sequence[Line]],
    *,
    x_label: str,
    y_label: str,
) -> Figure:
    """Rates against a number; a panel for each name, all with lines of the same names."""
    figure = _figure((5.2 * len(panels) + 0.6, 4.0))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for place, line in enumerate(lines):
            colour = COLOURS[place % len(COLOURS)]
            if line.band:
                low, high = zip(*(rate.interval for rate in line.rates), strict=True)
                axes.fill_between(line.x, low, high, color=colour, alpha=0.12, lw=0)
            values = [rate.value for rate in line.rates]
            marker = "o" if len(line.x) < 20 else ""
            style = {"color": colour, "marker": marker, "markersize": 4}
            dashes = (0, (4, 4)) if line.dashed else "solid"
            axes.plot(line.x, values, label=line.name, linestyle=dashes, **style)
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.set_xlabel(x_label)
        axes.set_ylim(-0.02, 1.02)
        _shares(axes.yaxis)
        axes.grid(alpha=0.25)
        _plain(axes)
    grid[0].set_ylabel(y_label)
    _legend(figure, grid[0])
    return figure


def scatter(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    x_label: str,
    y_label: str,
) -> Figure:
    """Pairs (x, y) of shares as dots; a panel for each name, a colour for each group."""
    figure = _figure((5.0 * len(panels), 4.2))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, groups) in zip(grid, panels.items(), strict=True):
        for colour, (name, (x, y)) in zip(COLOURS, groups.items(), strict=False):
            axes.scatter(x, y, color=colour, label=name, s=26, alpha=0.85, linewidths=0)
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.set_xlabel(x_label)
        _shares(axes.xaxis)
        _shares(axes.yaxis)
        axes.grid(alpha=0.25)
        _plain(axes)
    grid[0].set_ylabel(y_label)
    _legend(figure, grid[0])
    return figure


def distributions(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    labels: Sequence[str],
) -> Figure:
    """Outlines of histograms; a panel with its own label for each name, a colour for each group."""
    figure = _figure((5.0 * len(panels), 3.6))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, label, (title, groups) in zip(grid, labels, panels.items(), strict=True):
        every = numpy.concatenate([numpy.asarray(values) for values in groups.values()])
        low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
        edges = numpy.linspace(low, max(high, low + 1e-9), 31).tolist()
        for colour, (name, values) in zip(COLOURS, groups.items(), strict=False):
            axes.hist(values, edges, color=colour, label=name, histtype="step", linewidth=1.6)
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.set_xlabel(label)
        _counts(axes.yaxis)
        _plain(axes)
    grid[0].set_ylabel("points")
    _legend(figure, grid[0])
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """The names of one panel above all of them."""
    handles, names = axes.get_legend_handles_labels()
    # As many columns as fit beside each other, each as wide as the longest name and its key.
    widest = (max(map(len, names)) + KEY_LETTERS) / LETTERS_PER_INCH
    columns = max(1, min(len(names), int(figure.get_figwidth() / widest)))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)


def confidence_drawing(found: Evidence, radius: float, attacks: Collection[str]) -> Drawing:
    """Confidence on the points and on what attacks made of them, for every model."""

    def sides(table: AttemptTable, rows: Any) -> tuple[Any, Any]:
        some = table.take(rows)
        right = some.base.right(some.label)
        return some.base.confidence[right].numpy(), some.base.confidence[~right].numpy()

    def draw() -> Figure:
        panels = {}
        for role, table in found.tables.items():
            points = table.take(table.example >= 0)  # below are inputs that are no images
            attacked = points.select(attacks=attacks, radius=radius)
            panels[f"{role}, as they are"] = sides(points, points.is_clean())
            panels[f"{role}, attacked at {radius:g}"] = sides(attacked, ~attacked.is_clean())
        return histograms(panels)

    return Drawing(
        "confidence",
        f"Confidence of the answers on the points and on attacked ones ({', '.join(attacks)},"
        f" radius {radius:g}).",
        draw,
    )


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _rates(axes: Axes) -> None:
    """Rates along the axis, with room for numbers at their ends."""
    axes.set_xlim(0.0, 1.1)
    axes.set_xticks(numpy.linspace(0.0, 1.0, 6))
    _shares(axes.xaxis)


def _shares(axis: Axis) -> None:
    """Shares as percentages, with as many digits as tell the ticks apart."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1.0))


def _counts(axis: Axis) -> None:
    """Ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
