"""What the recipes of models trained for an experiment have in common."""

from __future__ import annotations

import pytest

from hcnn_fast.experiments import EXPERIMENTS, Settings, Training
from hcnn_fast.training import Recipe

FAMILIES = [name for name, experiment in EXPERIMENTS.items() if experiment.family is not None]
every_family = pytest.mark.parametrize("name", FAMILIES)


def recipes(name: str, data: str, radius: float) -> list[Recipe]:
    settings = Settings(
        data=data,
        radii=(radius,),
        paper_radii=(None,),
        confidences=(0.9,),
        points=1,
        steps=1,
        starts=1,
        search_steps=1,
        training=Training(epochs=6),
    )
    family = EXPERIMENTS[name].family
    assert family is not None
    return [member.recipe for member in family.members(settings)]


def test_there_are_families() -> None:
    assert {"loss-family", "ccat", "label-smoothing"} <= set(FAMILIES)


@every_family
def test_digits_are_not_mirrored_and_clothes_are(name: str) -> None:
    assert not any(recipe.flip for recipe in recipes(name, "mnist", 0.3))
    assert all(recipe.flip for recipe in recipes(name, "fashion-mnist", 0.1))


@every_family
def test_a_large_radius_grows_over_half_of_the_epochs(name: str) -> None:
    for recipe in recipes(name, "mnist", 0.3):
        assert recipe.radius_at(1.5) == pytest.approx(recipe.radius / 2)
        assert recipe.radius_at(3.0) == recipe.radius
    for recipe in recipes(name, "fashion-mnist", 0.1):
        assert recipe.radius_at(0.0) == recipe.radius
