"""`hcnn-fast train METHOD`: each method's defaults, its options, and the refusal of others'."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from hcnn_fast.cli.failures import WrongUsage
from hcnn_fast.cli.train_methods import OF_METHODS, MethodOptions, method_fields
from hcnn_fast.training import Recipe
from hcnn_fast.training.recipe import Method

OPTIONS: dict[str, Any] = {
    "loss": "cw_f6",
    "entropy_weight": 0.5,
    "label_smoothing": 0.2,
    "smoothed_over": "others",
    "temperature": 2.0,
    "beta": 3.0,
    "transition": "exponential",
    "rho": 5.0,
    "l2_radius": 1.5,
    "divergence_weight": 0.25,
    "manifold": "glyphs-easy",
    "latent_radius": 0.1,
}


def recipe(method: Method, **options: Any) -> Recipe:
    return Recipe(**method_fields(method, 0.1, MethodOptions(**options)))


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_defaults_that_make_a_recipe(method: Method) -> None:
    made = recipe(method)
    assert made.method == method
    assert made.radius == (0.1 if method in ("adversarial", "at50", "trades", "ccat") else 0.0)
    assert Recipe.from_dict(made.to_dict()) == made


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_its_method_and_is_refused_by_others(method: Method, option: str) -> None:
    if method in OF_METHODS[option]:
        assert recipe(method, **{option: OPTIONS[option]}) != recipe(method)
    else:
        with pytest.raises(WrongUsage, match=f"--{option.replace('_', '-')} is of method"):
            recipe(method, **{option: OPTIONS[option]})


def test_the_published_rho_goes_with_its_transition() -> None:
    found = [
        recipe("ccat", **options).to_dict()["settings"]["rho"]
        for options in ({}, {"transition": "exponential"}, {"transition": "power", "rho": 12.0})
    ]
    assert found == [10.0, 7.0, 12.0]
