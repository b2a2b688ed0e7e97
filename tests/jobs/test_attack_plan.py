"""Attacks by name: every name is its function, with the settings that were given and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scale_classifiers import Linear

import hcnn_fast as hf
from hcnn_fast import attacks
from hcnn_fast.attacks import AttackResult
from hcnn_fast.attacks.named import DEFENCE_METHODS, METHODS, SETTINGS
from hcnn_fast.jobs.attack_plan import AttackPlan
from hcnn_fast.jobs.attack_rows import ATTACK_COLUMNS, AttackTally

RADIUS, SEED = 0.2, 5
SHORT: dict[str, tuple[Callable[..., AttackResult], dict[str, Any]]] = {
    "pgd": (attacks.pgd, {"objective": "log_odds", "steps": 2, "step_size": 0.1, "starts": 2}),
    "apgd": (attacks.apgd_targeted, {"objective": "margin", "steps": 2, "targets": 1}),
    "confident": (attacks.strengthened_pgd, {"steps": 2, "starts": 2, "momentum": 0.5}),
    "pgd-conf": (attacks.pgd_conf, {"objective": "logit", "steps": 3, "momentum": 0.2}),
    "square": (attacks.square, {"objective": "margin", "queries": 3, "starts": 2}),
    "rays": (attacks.rays, {"queries": 4, "starts": 2}),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_its_function_with_the_settings_given(name: str) -> None:
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    model = Linear().eval()
    y = model(x).argmax(1)
    function, settings = SHORT[name]
    plan = AttackPlan(methods=(name,), radius=RADIUS, seed=SEED, bounds=(-1.0, 2.0), **settings)
    found = plan.run(model, x, y)[name]
    expected = function(model, x, y, radius=RADIUS, seed=SEED, bounds=(-1.0, 2.0), **settings)
    assert torch.equal(found.point, expected.point)
    assert torch.equal(found.value, expected.value)
    assert settings.items() <= plan.to_dict()["methods"][name].items()


def test_a_setting_goes_to_the_attacks_that_take_it_and_the_rest_keep_their_own() -> None:
    plan = AttackPlan(methods=("pgd", "apgd", "rays"), radius=0.1, objective="dlr", queries=7)
    assert plan.to_dict()["methods"] == {
        "pgd": {"objective": "dlr", "steps": 20, "step_size": None, "momentum": 0.0, "starts": 1},
        "apgd": {"objective": "dlr", "steps": 100, "starts": 1, "targets": None},
        "rays": {"starts": 1, "queries": 7},
    }


DEFENDED: dict[str, tuple[Callable[..., AttackResult], dict[str, Any], dict[str, Any]]] = {
    "danskin": (attacks.danskin_pgd, {"steps": 2, "momentum": 0.1}, {}),
    "long-range": (attacks.long_range, {"steps": 2, "starts": 1}, {}),
    "square": (attacks.square, {"queries": 3}, {"bounds": (-1.0, 2.0)}),
    "rays": (attacks.rays, {"queries": 4}, {"bounds": (-1.0, 2.0)}),
}


@pytest.mark.parametrize("name", DEFENCE_METHODS)
def test_a_name_attacks_the_defence_by_the_search_of_the_plan(name: str) -> None:
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    config = hf.SearchConfig.mcn(0.02, steps=2, bounds=(-1.0, 2.0))
    defense = hf.Defense(Linear().eval(), config)
    y = defense(x).argmax(1)
    function, settings, own = DEFENDED[name]
    place = {"search_radius": 0.02, "search_steps": 2, "bounds": (-1.0, 2.0)}
    plan = AttackPlan(methods=(name,), radius=RADIUS, seed=SEED, **settings, **place)
    assert plan.search_config() == config
    if name == "square":
        own = own | {"objective": attacks.value_margin(defense)}
    found = plan.run(defense, x, y)[name]
    expected = function(defense, x, y, radius=RADIUS, seed=SEED, **settings, **own)
    assert torch.equal(found.point, expected.point)
    assert torch.equal(found.value, expected.value)


def test_every_setting_is_for_some_attack() -> None:
    given = {"objective": "margin"}
    for name in SETTINGS:
        assert any(method.takes(name, given.get(name)) for method in METHODS.values()), name


def row(true: int | None, base: int, label: int, found_by: str) -> dict[str, Any]:
    attacked = base if true is None else true
    return dict.fromkeys(ATTACK_COLUMNS) | {
        "true_label": true,
        "attacked_label": attacked,
        "base_label": base,
        "success": label != attacked,
        "label": label,
        "found_by": found_by,
        "gradient_steps": 3,
        "queries": 2,
    }


def test_tally_tells_what_each_attack_found_first_and_alone() -> None:
    tally = AttackTally.of(("a", "b", "c"))
    tally.add([row(1, 1, 2, "a"), row(1, 1, 0, "b,c"), row(1, 1, 1, ""), row(1, 0, 0, "")])
    tally.add([row(None, 1, 2, "a,b"), dict.fromkeys(ATTACK_COLUMNS) | {"error": "unreadable"}])
    counts = tally.to_dict()
    assert counts["found"] == {
        "a": {"found": 2, "first": 2, "alone": 1},
        "b": {"found": 2, "first": 1, "alone": 0},
        "c": {"found": 1, "first": 0, "alone": 0},
    }
    assert (counts["rows"], counts["errors"], counts["attacked"]) == (6, 1, 4)
    assert (counts["fooled"]["count"], counts["fooled"]["total"]) == (3, 4)
    assert (counts["accuracy"]["count"], counts["accuracy"]["total"]) == (3, 4)
    assert counts["accuracy_under_attack"]["count"] == 1
    assert (counts["gradient_steps"], counts["queries"]) == (15, 10)
