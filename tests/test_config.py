"""`SearchConfig`: what it holds, what it refuses, and the way to JSON and back."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hcnn_fast as hf
from hcnn_fast import SearchConfig

OBJECTIVES = {
    "mcn": SearchConfig.mcn(0.1),
    "hcnn": SearchConfig.hcnn(0.1, 0.5),
    "ncn": SearchConfig.ncn(0.1, 0.9),
    "entropy": SearchConfig.entropy(0.1),
}


def test_each_constructor_makes_its_problem() -> None:
    assert SearchConfig.mcn(radius=0.01) == SearchConfig(objective="mcn", radius=0.01)
    assert SearchConfig.hcnn(radius=0.01, distance_weight=0.5, distance_norm="l1") == SearchConfig(
        objective="hcnn", radius=0.01, distance_weight=0.5, distance_norm="l1"
    )
    assert SearchConfig.ncn(radius=0.01, confidence=0.9, distance_norm="l2") == SearchConfig(
        objective="ncn", radius=0.01, confidence=0.9, distance_norm="l2"
    )
    assert SearchConfig.entropy(radius=0.01, order=2) == SearchConfig(
        objective="entropy", radius=0.01, order=2
    )


def test_the_defaults_are_those_of_the_contract() -> None:
    config = SearchConfig.hcnn(0.01, 0.5)
    assert config.distance_norm == "linf"
    assert SearchConfig.entropy(0.01).order == 1.0
    assert (config.starts, config.seed, config.labels) == (1, 0, None)
    assert config.bounds == (0.0, 1.0)
    assert (config.precision, config.backend) == ("float32", "auto")
    assert (config.tolerance, config.batch_size, config.keep_points) == (0.0, None, False)
    assert config.memory_budget is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_constructor_takes_the_keywords_of_a_run(objective: str) -> None:
    keywords: dict[str, Any] = {
        "steps": 7,
        "step_size": 0.02,
        "momentum": 0.5,
        "schedule": "constant",
        "starts": 3,
        "seed": 11,
        "bounds": (-1.0, 2.0),
        "precision": "bfloat16",
        "backend": "reference",
        "tolerance": 1e-3,
        "batch_size": 64,
        "memory_budget": 2**31,
        "keep_points": True,
        "compile": True,
    }
    if objective != "entropy":
        keywords["labels"] = 4
    own = {"hcnn": {"distance_weight": 0.5}, "ncn": {"confidence": 0.9}}.get(objective, {})
    config = getattr(SearchConfig, objective)(0.1, **own, **keywords)
    assert {name: getattr(config, name) for name in keywords} == keywords


def test_a_config_is_frozen_and_compares_and_hashes_by_value() -> None:
    config = SearchConfig.mcn(0.1)
    with pytest.raises(FrozenInstanceError):
        config.radius = 0.2  # type: ignore[misc]  # what the test is about
    assert config == SearchConfig.mcn(0.1)
    assert hash(config) == hash(SearchConfig.mcn(0.1))
    assert config != SearchConfig.mcn(0.2)
    assert pickle.loads(pickle.dumps(config)) == config


def test_bounds_in_a_list_become_a_tuple_of_floats() -> None:
    assert SearchConfig.mcn(0.1, bounds=[0, 255]).bounds == (0.0, 255.0)


def test_replace_gives_a_checked_copy() -> None:
    config = SearchConfig.hcnn(0.1, 0.5, steps=10)
    longer = config.replace(steps=20, radius=0.2)
    assert (longer.steps, longer.radius, longer.distance_weight) == (20, 0.2, 0.5)
    assert config.steps == 10
    with pytest.raises(ValueError, match="steps is 0, expected an int >= 1"):
        config.replace(steps=0)
    with pytest.raises(TypeError, match="no field 'step'"):
        config.replace(step=3)


REFUSED: list[tuple[str, dict[str, Any], str]] = [  # field, change, value in the message
    ("radius", {"radius": 0}, "0"),
    ("radius", {"radius": -0.1}, "-0.1"),
    ("radius", {"radius": math.nan}, "nan"),
    ("radius", {"radius": math.inf}, "inf"),
    ("radius", {"radius": "0.1"}, "'0.1'"),
    ("radius", {"radius": None}, "None"),
    ("radius", {"radius": True}, "True"),
    ("steps", {"steps": 0}, "0"),
    ("steps", {"steps": 2.5}, "2.5"),
    ("steps", {"steps": True}, "True"),
    ("step_size", {"step_size": 0.0}, "0.0"),
    ("step_size", {"step_size": -1.0}, "-1.0"),
    ("step_size", {"step_size": math.nan}, "nan"),
    ("step_size", {"step_size": math.inf}, "inf"),
    ("momentum", {"momentum": 1.0}, "1.0"),
    ("momentum", {"momentum": -0.1}, "-0.1"),
    ("momentum", {"momentum": math.nan}, "nan"),
    ("momentum", {"momentum": None}, "None"),
    ("schedule", {"schedule": "cosine"}, "'cosine'"),
    ("starts", {"starts": 0}, "0"),
    ("starts", {"starts": 1.0}, "1.0"),
    ("starts", {"starts": 2**31}, str(2**31)),
    ("seed", {"seed": -1}, "-1"),
    ("seed", {"seed": 0.5}, "0.5"),
    ("seed", {"seed": 2**63}, str(2**63)),
    ("labels", {"labels": 0}, "0"),
    ("labels", {"labels": 2.0}, "2.0"),
    ("bounds", {"bounds": (1.0, 0.0)}, r"\(1.0, 0.0\)"),
    ("bounds", {"bounds": (0.0, 0.0)}, r"\(0.0, 0.0\)"),
    ("bounds", {"bounds": (0.0, math.inf)}, r"\(0.0, inf\)"),
    ("bounds", {"bounds": (0.0, math.nan)}, "nan"),
    ("bounds", {"bounds": (0.0,)}, r"\(0.0,\)"),
    ("bounds", {"bounds": 1.0}, "1.0"),
    ("bounds", {"bounds": None}, "None"),
    ("bounds", {"bounds": ("0", "1")}, "'0'"),
    ("precision", {"precision": "half"}, "'half'"),
    ("backend", {"backend": "gpu"}, "'gpu'"),
    ("tolerance", {"tolerance": -1e-9}, "-1e-09"),
    ("tolerance", {"tolerance": math.nan}, "nan"),
    ("tolerance", {"tolerance": math.inf}, "inf"),
    ("batch_size", {"batch_size": 0}, "0"),
    ("batch_size", {"batch_size": 1.5}, "1.5"),
    ("memory_budget", {"memory_budget": 0}, "0"),
    ("memory_budget", {"memory_budget": -5}, "-5"),
    ("memory_budget", {"memory_budget": 2e9}, "2000000000.0"),
    ("memory_budget", {"memory_budget": True}, "True"),
    ("memory_budget", {"memory_budget": "2GB"}, "'2GB'"),
    ("keep_points", {"keep_points": 1}, "1"),
    ("compile", {"compile": "yes"}, "'yes'"),
    ("distance_norm", {"distance_norm": "l3"}, "'l3'"),
    ("distance_norm", {"distance_norm": 2}, "2"),
    ("objective", {"objective": "max"}, "'max'"),
    ("objective", {"objective": None}, "None"),
]


@pytest.mark.parametrize(("field", "change", "value"), REFUSED)
def test_a_field_out_of_range_is_named_with_its_value(
    field: str, change: dict[str, Any], value: str
) -> None:
    message = rf"^{field} is .*{value}.*, expected .+$"
    with pytest.raises((ValueError, TypeError), match=message):
        SearchConfig(**{"objective": "mcn", "radius": 0.1, **change})
    with pytest.raises((ValueError, TypeError), match=message):
        SearchConfig.mcn(0.1).replace(**change)


def test_every_field_has_a_refusal() -> None:
    of_one_objective = {"distance_weight", "confidence", "order"}
    fields = set(SearchConfig.__dataclass_fields__)
    assert fields - {field for field, _, _ in REFUSED} == of_one_objective


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, "1", None])
def test_distance_weight_is_a_finite_number(weight: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^distance_weight is .*expected"):
        SearchConfig.hcnn(0.1, weight)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 1.1, math.nan, "0.9", None, True])
def test_confidence_is_strictly_between_zero_and_one(confidence: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^confidence is .*expected .*\(0, 1\)"):
        SearchConfig.ncn(0.1, confidence)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize("order", [-0.1, -math.inf, math.nan, "2", None, True])
def test_order_is_a_number_not_below_zero(order: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^order is .*expected a number >= 0"):
        SearchConfig.entropy(0.1, order)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize(
    ("objective", "change"),
    [
        ("mcn", {"distance_weight": 0.5}),
        ("ncn", {"distance_weight": 0.5}),
        ("entropy", {"distance_weight": 0.5}),
        ("mcn", {"confidence": 0.5}),
        ("hcnn", {"confidence": 0.5}),
        ("entropy", {"confidence": 0.5}),
        ("mcn", {"order": 1.0}),
        ("hcnn", {"order": 1.0}),
        ("ncn", {"order": 1.0}),
        ("entropy", {"labels": 2}),
    ],
)
def test_a_field_of_another_objective_is_refused(objective: str, change: dict[str, Any]) -> None:
    (field,) = change
    with pytest.raises(ValueError, match=f"^{field} is .*expected (0|None)"):
        OBJECTIVES[objective].replace(**change)


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        SearchConfig.mcn(0.1, learning_rate=0.1)


@st.composite
def configs(draw: st.DrawFn) -> SearchConfig:
    """Any valid configuration."""
    small = st.floats(1e-6, 1e3)
    keywords: dict[str, Any] = {
        "steps": draw(st.integers(1, 500)),
        "step_size": draw(st.none() | small),
        "momentum": draw(st.floats(0.0, 1.0, exclude_max=True)),
        "schedule": draw(st.sampled_from(["constant", "decay"])),
        "starts": draw(st.integers(1, 2**31 - 1)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "precision": draw(st.sampled_from(["float32", "bfloat16", "float16", "auto"])),
        "backend": draw(st.sampled_from(["auto", "reference", "cpu", "cuda", "triton"])),
        "tolerance": draw(st.floats(0.0, 1.0)),
        "batch_size": draw(st.none() | st.integers(1, 10**6)),
        "memory_budget": draw(st.none() | st.integers(1, 2**40)),
        "keep_points": draw(st.booleans()),
        "compile": draw(st.booleans()),
    }
    low = draw(st.floats(-1e3, 1e3))
    keywords["bounds"] = (low, low + draw(st.floats(0.1, 1e3)))
    objective = draw(st.sampled_from(sorted(OBJECTIVES)))
    if objective != "entropy":
        keywords["labels"] = draw(st.none() | st.integers(1, 1000))
    norm = draw(st.sampled_from(["l1", "l2", "linf"]))
    if objective == "hcnn":
        return SearchConfig.hcnn(draw(small), draw(st.floats(0.0, 1e3)), norm, **keywords)
    if objective == "ncn":
        p = draw(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
        return SearchConfig.ncn(draw(small), p, norm, **keywords)
    if objective == "entropy":
        order = draw(st.floats(0.0, 50.0) | st.just(math.inf))
        return SearchConfig.entropy(draw(small), order, **keywords)
    return SearchConfig.mcn(draw(small), **keywords)


@given(configs())
def test_a_config_survives_the_way_through_json(config: SearchConfig) -> None:
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert SearchConfig.from_dict(json.loads(text)) == config
    assert SearchConfig.from_dict(config.to_dict()) == config


def test_an_infinite_order_is_written_as_a_word() -> None:
    config = SearchConfig.entropy(0.1, order=math.inf)
    assert config.to_dict()["order"] == "inf"
    assert SearchConfig.from_dict(config.to_dict()).order == math.inf


def test_to_dict_holds_every_field() -> None:
    assert set(SearchConfig.mcn(0.1).to_dict()) == set(SearchConfig.__dataclass_fields__)


def test_from_dict_takes_the_defaults_for_what_is_missing() -> None:
    assert SearchConfig.from_dict({"objective": "mcn", "radius": 0.1}) == SearchConfig.mcn(0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radius": 0.1}, "'objective' is missing"),
        ({"objective": "mcn"}, "'radius' is missing"),
        ({"objective": "mcn", "radius": 0.1, "epsilon": 3}, "'epsilon', expected a field"),
        ({"objective": "mcn", "radius": -1}, "radius is -1"),
        ({"objective": "mcn", "radius": 0.1, "bounds": 3}, "bounds is 3"),
        ({"objective": "mcn", "radius": 0.1, "bounds": None}, "bounds is None"),
        ([("objective", "mcn")], "values is a list, expected a mapping"),
    ],
)
def test_from_dict_names_what_it_cannot_use(values: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SearchConfig.from_dict(values)


@given(configs())
def test_steps_shrink_and_stay_positive(config: SearchConfig) -> None:
    for second_run in (False, True):
        sizes = config.step_sizes(second_run=second_run)
        assert len(sizes) == config.steps
        assert all(size > 0.0 for size in sizes)
        assert list(sizes) == sorted(sizes, reverse=True)


def test_step_sizes_by_hand() -> None:
    decay = SearchConfig.mcn(0.5, steps=4)
    assert decay.step_sizes() == (0.25, 0.1875, 0.125, 0.0625)  # from radius / 2
    assert decay.replace(step_size=1.0).step_sizes() == (1.0, 0.75, 0.5, 0.25)
    constant = decay.replace(schedule="constant")
    assert constant.step_sizes() == (0.3125,) * 4  # 2.5 * 0.5 / 4
    assert constant.replace(step_size=0.1).step_sizes() == (0.1,) * 4


def test_search_takes_a_config_and_nothing_else() -> None:
    assert hf.SearchConfig is SearchConfig
    with pytest.raises(TypeError, match="config is a float, expected a SearchConfig"):
        hf.search(lambda z: z, None, 0.1)  # type: ignore[arg-type]  # what the test is about
