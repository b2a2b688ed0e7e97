"""A Recipe is valid once it exists, and its schedules are what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from hcnn_fast import models
from hcnn_fast.training import Recipe
from hcnn_fast.training.settings import (
    Calibration,
    HalfAttacked,
    Smoothing,
    Trades,
    VirtualAdversarial,
)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("method", "tradse", ValueError),
        ("loss", "cw_f5", ValueError),
        ("entropy_weight", -0.5, ValueError),
        ("settings", {"beta": 6.0}, TypeError),
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


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "ccat", "radius": 0.0}, "radius is 0.0, expected a number > 0 for .*'ccat'"),
        ({"method": "vat"}, "radius is 0.1, expected 0 for method 'vat'"),
        ({"method": "trades", "loss": "squared"}, "loss is 'squared', expected 'cross_entropy'"),
        ({"method": "at50", "entropy_weight": 1.0}, "entropy_weight is 1.0, expected 0"),
        ({"method": "at50", "batch_size": 1}, "batch_size is 1, expected 2 or more"),
        ({"method": "trades", "label_smoothing": 0.1}, "label_smoothing is 0.1, expected 0"),
        ({"loss": "cw_f7", "label_smoothing": 0.1}, "expected 0 .* with loss 'cw_f7'"),
        ({"method": "label-smoothing", "radius": 0.0}, "label_smoothing is 0, expected"),
    ],
)
def test_what_does_not_go_with_a_method_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda: Trades(beta=-1.0), "beta is -1.0"),
        (lambda: Trades(start_deviation=0.0), "start_deviation is 0.0"),
        (lambda: HalfAttacked(momentum=1.0), "momentum is 1.0"),
        (lambda: HalfAttacked(backtracking=1.0), "backtracking is 1.0"),
        (lambda: HalfAttacked(initialisations=("nought",)), "initialisations has 'nought'"),  # type: ignore[arg-type]
        (lambda: Calibration(rho=0.0), "rho is 0.0"),
        (lambda: Calibration(transition="linear"), "transition is 'linear'"),  # type: ignore[arg-type]
        (lambda: Calibration(momentum=-0.1), "momentum is -0.1"),
        (lambda: Smoothing(over="some"), "over is 'some'"),  # type: ignore[arg-type]
        (lambda: Smoothing(temperature=0.0), "temperature is 0.0"),
        (lambda: VirtualAdversarial(l2_radius=0.0), "l2_radius is 0.0"),
        (lambda: VirtualAdversarial(power_iterations=0), "power_iterations is 0"),
        (lambda: Trades.from_dict({"betta": 6.0}), "settings has 'betta', expected fields of Trad"),
    ],
)
def test_wrong_setting_is_named_with_its_value(settings: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        settings()


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(TypeError, match=r"settings is a Trades, expected Calibration for .*'ccat'"):
        Recipe(method="ccat", settings=Trades())
    with pytest.raises(TypeError, match="settings is a HalfAttacked, expected Calibration"):
        Recipe(method="ccat", settings=HalfAttacked())
    with pytest.raises(TypeError, match="settings is a Trades, expected None"):
        Recipe(settings=Trades())
    with pytest.raises(ValueError, match="expected None for method 'natural'"):
        Recipe.from_dict({"method": "natural", "radius": 0.0, "settings": {"beta": 6.0}})


def test_settings_survive_json_and_defaults_are_written_out() -> None:
    for settings in (Calibration(transition="exponential", rho=7.0), None):
        recipe = Recipe(method="ccat", settings=settings)
        values = json.loads(json.dumps(recipe.to_dict()))
        assert values == recipe.to_dict()
        assert values["settings"]["initialisations"] == ["gaussian", "uniform_norm", "zero"]
        assert Recipe.from_dict(values) == recipe
    assert recipe.to_dict()["settings"]["rho"] == 10.0
    assert Recipe(method="trades").settings == Trades(beta=6.0, start_deviation=0.001)


@pytest.mark.parametrize("name", models.registry.TRAINED)
def test_cards_of_shipped_models_are_still_read(name: str) -> None:
    recipe = Recipe.from_dict(models.card(name)["recipe"])
    assert recipe.method == name.split("-")[1]
    assert recipe.loss == "cross_entropy"
    assert (recipe.settings is None) == (recipe.method not in ("ccat", "at50"))
