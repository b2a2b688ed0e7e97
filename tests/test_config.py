"""SearchConfig: valid once it exists, and a faithful dictionary."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hcnn_fast as hf

MCN = {"objective": "mcn", "radius": 0.1}


def test_constructors_set_their_objective_and_parameters() -> None:
    assert hf.SearchConfig.mcn(radius=0.01).objective == "mcn"
    hcnn = hf.SearchConfig.hcnn(radius=0.01, distance_weight=0.5, distance_norm="l2")
    assert (hcnn.objective, hcnn.distance_weight, hcnn.distance_norm) == ("hcnn", 0.5, "l2")
    ncn = hf.SearchConfig.ncn(radius=0.01, confidence=0.9, distance_norm="l1")
    assert (ncn.objective, ncn.confidence, ncn.distance_norm) == ("ncn", 0.9, "l1")
    entropy = hf.SearchConfig.entropy(radius=0.01, order=2.0)
    assert (entropy.objective, entropy.order) == ("entropy", 2.0)


def test_a_configuration_is_frozen_and_replace_checks_anew() -> None:
    config = hf.SearchConfig.mcn(0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.radius = 0.2  # type: ignore[misc]
    assert config.replace(steps=7).steps == 7
    assert config.steps == 20
    with pytest.raises(ValueError, match="steps is 0"):
        config.replace(steps=0)
    with pytest.raises(TypeError, match="no field 'stepz'"):
        config.replace(stepz=3)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"objective": "best"}, ValueError, ("objective", "best", "mcn")),
        ({"radius": 0.0}, ValueError, ("radius", "> 0")),
        ({"radius": -1.0}, ValueError, ("radius", "> 0")),
        ({"radius": math.nan}, ValueError, ("radius", "nan")),
        ({"radius": math.inf}, ValueError, ("radius", "finite")),
        ({"radius": "0.1"}, TypeError, ("radius", "str")),
        ({"distance_weight": 1.0}, ValueError, ("distance_weight", "mcn")),
        ({"objective": "hcnn", "distance_weight": -1.0}, ValueError, ("distance_weight", ">= 0")),
        ({"distance_norm": "l3"}, ValueError, ("distance_norm", "l3", "linf")),
        ({"objective": "ncn"}, TypeError, ("confidence", "None", "(0, 1)")),
        ({"objective": "ncn", "confidence": 1.0}, ValueError, ("confidence", "(0, 1)")),
        ({"confidence": 0.5}, ValueError, ("confidence", "mcn")),
        ({"objective": "entropy"}, TypeError, ("order", "None")),
        ({"objective": "entropy", "order": -0.5}, ValueError, ("order", ">= 0")),
        ({"objective": "entropy", "order": 1.0, "labels": 2}, ValueError, ("labels", "no labels")),
        ({"order": 1.0}, ValueError, ("order", "mcn")),
        ({"steps": 0}, ValueError, ("steps", ">= 1")),
        ({"steps": 2.0}, TypeError, ("steps", "float")),
        ({"steps": True}, TypeError, ("steps", "bool")),
        ({"step_size": 0.0}, ValueError, ("step_size", "> 0")),
        ({"momentum": 1.0}, ValueError, ("momentum", "[0, 1)")),
        ({"schedule": "cosine"}, ValueError, ("schedule", "decay")),
        ({"starts": 0}, ValueError, ("starts", ">= 1")),
        ({"seed": -1}, ValueError, ("seed", ">= 0")),
        ({"labels": 0}, ValueError, ("labels", ">= 1")),
        ({"bounds": (1.0, 0.0)}, ValueError, ("bounds", "lowest < highest")),
        ({"bounds": (0.0, math.inf)}, ValueError, ("bounds", "finite")),
        ({"bounds": 1.0}, TypeError, ("bounds", "pair")),
        ({"precision": "int8"}, ValueError, ("precision", "bfloat16")),
        ({"backend": "tpu"}, ValueError, ("backend", "tpu", "triton")),
        ({"tolerance": -1.0}, ValueError, ("tolerance", ">= 0")),
        ({"batch_size": 0}, ValueError, ("batch_size", ">= 1")),
        ({"keep_points": 1}, TypeError, ("keep_points", "True or False")),
    ],
)
def test_an_invalid_field_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        hf.SearchConfig(**{**MCN, **changes})
    for word in words:
        assert word in str(caught.value)


@given(
    radius=st.floats(1e-6, 10.0),
    steps=st.integers(1, 1000),
    momentum=st.floats(0.0, 0.99),
    order=st.one_of(st.floats(0.0, 50.0), st.just(math.inf)),
    starts=st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_configuration_survives_json(
    radius: float, steps: int, momentum: float, order: float, starts: int, seed: int
) -> None:
    config = hf.SearchConfig.entropy(
        radius, order, steps=steps, momentum=momentum, starts=starts, seed=seed
    )
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert hf.SearchConfig.from_dict(json.loads(text)) == config


def test_from_dict_refuses_unknown_and_missing_fields() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        hf.SearchConfig.from_dict({**MCN, "epsilon": 1})
    with pytest.raises(ValueError, match="'radius' is missing"):
        hf.SearchConfig.from_dict({"objective": "mcn"})


def test_step_sizes_follow_the_schedule() -> None:
    constant = hf.SearchConfig.mcn(0.1, steps=5, schedule="constant")
    assert constant.step_sizes() == pytest.approx([0.05] * 5)
    decay = hf.SearchConfig.mcn(0.1, steps=4, step_size=0.2)
    assert decay.step_sizes() == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert decay.step_sizes(second_run=True) == pytest.approx(
        [0.05, 0.05 * 0.5625, 0.05 * 0.25, 0.05 * 0.0625]
    )
