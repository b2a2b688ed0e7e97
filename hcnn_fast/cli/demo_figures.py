"""The two pictures of the demo: a gallery of outcomes, and histograms of confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from torch import Tensor

from hcnn_fast.cli.demo_measurement import Condition, ModelMeasurement, Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct to every kind of colour vision.
RIGHT, WRONG, THRESHOLD, FAINT = "#0072B2", "#D55E00", "#333333", "#666666"
HEADINGS = (
    "clean",
    "attacked",
    "change by the attack",
    "found by the search",
    "change by the search",
)
FEWEST_ROWS = 4  # of a model, where so many of its images were right before the attack
DOTS_PER_INCH = 150


def choose_examples(measurement: ModelMeasurement) -> list[tuple[int, str]]:
    """The first image of each outcome of the strongest attack, as (index, outcome).

    Only images that the base model gets right when clean are shown. No choice by eye: outcomes
    that do not occur are replaced by the next images in the order of the data.
    """
    attacked = measurement.conditions[-1]
    targets = measurement.targets
    started_right = measurement.conditions[0].base.label == targets
    base_right = attacked.base.label == targets
    search_right = attacked.defended.label == targets
    accepted = attacked.defended.accepted
    outcomes = {
        "base and search\nright": base_right & search_right & accepted,
        "search recovers\nthe label": ~base_right & search_right & accepted,
        "search loses\nthe label": base_right & ~search_right & accepted,
        "base and search\nwrong": ~base_right & ~search_right & accepted,
        "search ends\nin rejection": ~accepted,
    }
    outcomes = {name: mask & started_right for name, mask in outcomes.items()}
    every = sorted(
        (index, name) for name, mask in outcomes.items() for index in mask.nonzero()[:, 0].tolist()
    )
    chosen: list[tuple[int, str]] = []
    for example in every:
        if example[1] not in (name for _, name in chosen):
            chosen.append(example)
    others = [example for example in every if example not in chosen]
    chosen += others[: max(0, FEWEST_ROWS - len(chosen))]
    order = list(outcomes)
    return sorted(chosen, key=lambda item: (order.index(item[1]), item[0]))


def draw_gallery(
    measurements: Sequence[ModelMeasurement],
    class_names: Sequence[str],
    radius: float,
    path: Path,
) -> None:
    """Images before and after attack and search, one row each, and write them to `path`."""
    rows = [(m, *example) for m in measurements for example in choose_examples(m)]
    figure = _new_figure((10.0, 0.9 + 1.65 * len(rows)))
    grid = figure.subplots(max(len(rows), 1), 5, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (measurement, index, outcome) in zip(grid, rows, strict=False):
        clean, attacked = measurement.conditions[0], measurement.conditions[-1]
        target = int(measurement.targets[index])
        before, after = clean.images[index], attacked.images[index]
        point = attacked.points[index]
        _show_image(line[0], before)
        _show_image(line[1], after)
        _show_change(line[2], after - before, attacked.attack_radius)
        _show_image(line[3], point)
        _show_change(line[4], point - after, radius)
        _caption(line[0], clean.base, index, target, class_names, may_reject=False)
        _caption(line[1], attacked.base, index, target, class_names, may_reject=False)
        _caption(line[3], attacked.defended, index, target, class_names, may_reject=True)
        line[2].set_title(f"attack, up to ±{attacked.attack_radius:g}", fontsize=9, color=FAINT)
        line[4].set_title(f"search, up to ±{radius:g}", fontsize=9, color=FAINT)
        line[0].text(
            -0.12,
            0.5,
            f"{measurement.name}\n\n{outcome}",
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    for axes, heading in zip(grid[0], HEADINGS, strict=True):
        axes.annotate(
            heading,
            (0.5, 1.0),
            (0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=10,
            fontweight="bold",
        )
    figure.supxlabel(
        "Blue: the right label; orange: a wrong one. Rows: of the images that the base model gets"
        " right when clean,\nthe first of each outcome of the strongest attack, in the order of the"
        " data.",
        fontsize=9,
        color=FAINT,
    )
    _save(figure, path)


def draw_histograms(measurements: Sequence[ModelMeasurement], path: Path) -> None:
    """Confidence of right and wrong predictions, clean and attacked, base and defended."""
    figure = _new_figure((14.0, 1.2 + 3.0 * len(measurements)))
    grid = figure.subplots(len(measurements), 4, squeeze=False, sharex=True, sharey="row")
    for line, measurement in zip(grid, measurements, strict=True):
        panels = [
            (condition, name, getattr(condition, key))
            for condition in (measurement.conditions[0], measurement.conditions[-1])
            for key, name in (("base", "base"), ("defended", "MCN"))
        ]
        for axes, (condition, name, predictions) in zip(line, panels, strict=True):
            _histogram(axes, predictions, measurement.targets)
            counts = _counts(predictions, measurement.targets)
            axes.set_title(f"{_condition_title(condition)}: {name}\n", fontsize=10.5, loc="left")
            axes.text(0.0, 1.015, counts, transform=axes.transAxes, fontsize=8.5, color=FAINT)
        line[0].set_ylabel(f"{measurement.name}\nimages", fontsize=10.5)
    for axes in grid[-1]:
        axes.set_xlabel("confidence of the prediction")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    _save(figure, path)


def _condition_title(condition: Condition) -> str:
    if condition.attack_radius > 0:
        return f"attacked, radius {condition.attack_radius:g}"
    return "clean"


def _counts(predictions: Predictions, targets: Tensor) -> str:
    right, accepted = predictions.label == targets, predictions.accepted
    return (
        f"accepted: {int((right & accepted).sum())} right, {int((~right & accepted).sum())} wrong;"
        f" rejected: {int((~accepted).sum())}"
    )


def _histogram(axes: Axes, predictions: Predictions, targets: Tensor) -> None:
    right = predictions.label == targets
    bins = numpy.linspace(0.0, 1.0, 21)
    axes.hist(
        [predictions.confidence[right].numpy(), predictions.confidence[~right].numpy()],
        bins=bins.tolist(),
        stacked=True,
        color=[RIGHT, WRONG],
        label=["right label", "wrong label"],
        edgecolor="white",
        linewidth=0.4,
    )
    axes.axvline(
        predictions.threshold,
        color=THRESHOLD,
        linestyle="--",
        linewidth=1.2,
        label="threshold: rejected to the left",
    )
    axes.set_xlim(0.0, 1.0)
    axes.spines[["top", "right"]].set_visible(False)


def _caption(
    axes: Axes,
    predictions: Predictions,
    index: int,
    target: int,
    class_names: Sequence[str],
    *,
    may_reject: bool,
) -> None:
    label = int(predictions.label[index])
    text = f"{class_names[label]} {float(predictions.confidence[index]):.0%}"
    if may_reject and not bool(predictions.accepted[index]):
        text += ", rejected"
    axes.set_title(text, fontsize=9, color=RIGHT if label == target else WRONG)


def _show_image(axes: Axes, image: Tensor) -> None:  # image [C, H, W] in [0, 1]
    pixels = image.permute(1, 2, 0).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")


def _show_change(axes: Axes, change: Tensor, radius: float) -> None:  # change [C, H, W]
    axes.imshow(
        change.mean(0).numpy(), cmap="RdBu_r", vmin=-radius, vmax=radius, interpolation="nearest"
    )


def _new_figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    metadata: dict[str, Any] = {"Software": None}  # the same picture is the same file
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
