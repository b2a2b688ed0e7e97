"""What the axes of the experiments' pictures say."""

from __future__ import annotations

import pytest
from matplotlib.axis import Axis

from hcnn_fast.experiments import figures


def ticks(axis: Axis) -> dict[str, float]:
    """Where the labels of a drawn axis stand."""
    axis.figure.draw_without_rendering()
    return {
        label.get_text(): float(place)
        for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
    }


@pytest.mark.parametrize("largest", [0.19, 0.325, 0.95])
def test_a_label_of_shares_names_the_place_that_it_stands_at(largest: float) -> None:
    shares = ([0.133, largest], [0.168, 0.297])
    figure = figures.scatter({"one": {"dots": shares}}, x_label="x", y_label="y")
    found = ticks(figure.axes[0].xaxis)
    assert len(found) >= 3
    for text, place in found.items():
        assert float(text.rstrip("%")) / 100.0 == pytest.approx(place, abs=1e-9)


def test_points_are_counted_in_whole_numbers() -> None:
    values = [0.1] * 4 + [0.9]
    figure = figures.distributions({"one": {"values": values}}, labels=["distance"])
    places = ticks(figure.axes[0].yaxis).values()
    assert len(places) >= 3
    assert all(place == int(place) for place in places)
