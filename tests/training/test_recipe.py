"""A Recipe is valid once it exists, and its schedules are what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hcnn_fast.training import Recipe


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("method", "trades", ValueError),
        ("precision", "float64", ValueError),
        ("radius", -0.1, ValueError),
        ("radius", 0.0, ValueError),
        ("radius", math.nan, ValueError),
        ("radius", math.inf, ValueError),
        ("radius", "0.1", TypeError),
        ("attack_steps", 0, ValueError),
        ("attack_steps", 2.5, TypeError),
        ("first_attack_steps", 0, ValueError),
        ("attack_step_size", 0.0, ValueError),
        ("epochs", 0, ValueError),
        ("epochs", True, TypeError),
        ("batch_size", 0, ValueError),
        ("learning_rate", 0.0, ValueError),
        ("learning_rate_warmup", 1.0, ValueError),
        ("momentum", 1.0, ValueError),
        ("weight_decay", -1.0, ValueError),
        ("average_decay", 1.0, ValueError),
        ("shift", -1, ValueError),
        ("patience", 0, ValueError),
        ("seed", 2**31, ValueError),
        ("flip", 1, TypeError),
    ],
)
def test_wrong_field_is_named_with_its_value(
    field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{field} is .*expected"):
        Recipe(**{field: value})


def test_natural_training_has_no_radius() -> None:
    assert Recipe.natural().radius == 0.0
    with pytest.raises(ValueError, match="expected 0 for method 'natural'"):
        Recipe(method="natural")


def test_recipe_survives_its_dictionary() -> None:
    recipe = Recipe(radius=0.2, patience=3, first_attack_steps=2, attack_ramp_epochs=4)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.replace(radius=0.3).radius == 0.3
    with pytest.raises(ValueError, match="'epoch'"):
        Recipe.from_dict({"epoch": 3})
    with pytest.raises(TypeError, match="no field 'epoch'"):
        recipe.replace(epoch=3)


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_0() -> None:
    recipe = Recipe(learning_rate=0.4, learning_rate_warmup=0.25)
    assert recipe.learning_rate_at(0.0) == 0.0
    assert recipe.learning_rate_at(0.125) == pytest.approx(0.2)
    assert recipe.learning_rate_at(0.25) == pytest.approx(0.4)
    assert recipe.learning_rate_at(0.625) == pytest.approx(0.2)
    assert recipe.learning_rate_at(1.0) == pytest.approx(0.0)
    assert recipe.replace(learning_rate_warmup=0.0).learning_rate_at(0.0) == pytest.approx(0.4)


def test_radius_and_steps_of_the_attack_ramp_up_to_their_values() -> None:
    recipe = Recipe(
        radius=0.1,
        radius_warmup_epochs=2.0,
        first_attack_steps=2,
        attack_steps=6,
        attack_ramp_epochs=4,
    )
    assert [recipe.radius_at(e) for e in (0.0, 1.0, 2.0, 9.0)] == [0.0, 0.05, 0.1, 0.1]
    assert [recipe.attack_steps_at(e) for e in range(6)] == [2, 3, 4, 5, 6, 6]
    assert recipe.attack_step_size_at(1.0, steps=5) == pytest.approx(0.05 * 2.5 / 5)
    assert recipe.replace(attack_step_size=0.3).attack_step_size_at(5.0, 6) == pytest.approx(0.03)
    assert Recipe(attack_steps=7).attack_steps_at(0) == 7
