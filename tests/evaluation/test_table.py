"""The attempt table keeps what it is given, and refuses what would falsify a metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attempt_tables import random_table

import hcnn_fast as hf
from hcnn_fast.evaluation import Answers, AttemptTable, calibrated_threshold, concatenate


def answers(**changes: Any) -> Answers:
    columns = {
        "prediction": torch.tensor([0, 1]),
        "confidence": torch.tensor([0.6, 0.75]),
        "wrong_confidence": torch.tensor([0.4, 0.75]),
        "accepted": torch.tensor([True, False]),
    }
    return Answers(**(columns | changes))


def attempt(**changes: Any) -> AttemptTable:
    arguments: dict[str, Any] = {
        "example": torch.tensor([7, 3]),
        "label": torch.tensor([0, 0]),
        "attack": "pgd",
        "radius": 0.1,
        "distance": torch.tensor([0.1, 0.05]),
        "base": answers(),
        "defended": answers(),
    }
    return AttemptTable.of_attempt(**(arguments | changes))


def test_restarts_may_differ_from_row_to_row() -> None:
    assert attempt(restart=torch.tensor([4, 2])).restart.tolist() == [4, 2]
    assert attempt(restart=3).restart.tolist() == [3, 3]
    with pytest.raises(ValueError, match="lengths"):
        attempt(restart=torch.tensor([4, 2, 1]))


def test_columns_hold_the_values_given_and_are_copies() -> None:
    confidence = torch.tensor([0.6, 0.75])
    held = answers(confidence=confidence)
    assert held.confidence.dtype == torch.float64
    assert held.confidence.tolist() == confidence.tolist()
    confidence[0] = 0.0
    assert float(held.confidence[0]) == float(torch.tensor(0.6))


def test_answers_from_logits_are_those_of_the_softmax() -> None:
    probability = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]])
    found = Answers.from_logits(probability.log(), torch.tensor([1, 2, 1]), threshold=0.45)
    assert found.prediction.tolist() == [1, 0, 0]
    assert found.confidence.tolist() == pytest.approx([0.5, 0.6, 0.4])
    assert found.wrong_confidence.tolist() == pytest.approx([0.3, 0.6, 0.4])
    assert found.accepted.tolist() == [True, True, False]
    no_class = Answers.from_logits(probability.log(), torch.tensor([-1, -1, -1]))
    assert torch.equal(no_class.wrong_confidence, no_class.confidence)
    assert no_class.accepted.all()


def test_answers_from_logits_are_those_of_the_defense_to_the_bit() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3))
    x = torch.rand(40, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(40) % 3
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.1, steps=2))
    defense.calibrate(x, y, 0.9)
    said = defense.predict(x)
    held = Answers.from_logits(said.search.logits, y, threshold=defense.threshold or 0.0)
    assert torch.equal(held.accepted, said.accepted)
    assert torch.equal(held.confidence, said.confidence.double())
    right = held.right(y)
    assert calibrated_threshold(held.confidence, right, 0.9) == defense.threshold


def test_no_answer_is_neither_right_nor_wrong_and_below_every_threshold() -> None:
    held = answers(prediction=torch.tensor([-1, 1]), accepted=torch.tensor([False, True]))
    for label in (-1, 0, 1):
        labels = torch.tensor([label, 0])
        assert not held.right(labels)[0]
        assert not held.wrong(labels)[0]
    assert held.score().tolist() == [-float("inf"), 0.75]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"confidence": [0.5, 0.5]}, TypeError, "confidence is a list"),
        ({"confidence": torch.tensor([1, 0])}, TypeError, "confidence is of torch.int64"),
        ({"prediction": torch.tensor([0.0, 1.0])}, TypeError, "prediction is of torch.float32"),
        ({"accepted": torch.tensor([1, 0])}, TypeError, "accepted is of torch.int64"),
        ({"confidence": torch.tensor([0.5, float("nan")])}, ValueError, "confidence is NaN in row"),
        ({"confidence": torch.tensor([0.5, 1.5])}, ValueError, "confidence is 1.5 in row 1"),
        ({"confidence": torch.tensor([[0.5, 0.5]])}, ValueError, r"has the shape \(1, 2\)"),
        ({"confidence": torch.tensor([0.5])}, ValueError, "expected one length R"),
        ({"prediction": torch.tensor([0, -2])}, ValueError, "prediction is -2 in row 1"),
        ({"prediction": torch.tensor([-1, 0])}, ValueError, "expected False where the prediction"),
    ],
)
def test_answers_refuse_bad_columns_by_name(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answers(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": None}, "distance is None"),
        ({"distance": torch.tensor([0.1, 0.1002])}, "distance is 0.1.* in row 1"),
        ({"radius": -0.1}, "radius is -0.1"),
        ({"radius": float("nan")}, "radius is NaN"),
        ({"label": torch.tensor([-2, 0])}, "label is -2"),
        ({"label": torch.tensor([0])}, "expected one length R"),
        ({"queries": -1}, "queries is -1"),
        ({"example": torch.tensor([7, 7])}, "has two rows"),
        (
            {"example": torch.tensor([7, 7]), "label": torch.tensor([0, 2])},
            "label is 2 and 0 for example 7",
        ),
        ({"label": torch.tensor([1, 0])}, "base.wrong_confidence is 0.4.* where the prediction"),
        (
            {"defended": answers(wrong_confidence=torch.tensor([0.7, 0.75]))},
            "defended.wrong_confidence is 0.69.* no more than the confidence",
        ),
        ({"metadata": {"steps": 20}}, "metadata has 20"),
    ],
)
def test_table_refuses_bad_rows_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt(**changes)


def test_attempts_that_differ_in_one_part_of_the_key_stand_side_by_side() -> None:
    changes = [{"attack": "cw"}, {"norm": "l2"}, {"radius": 0.2}, {"restart": 1}, {"seed": 1}]
    parts = [attempt(), attempt(target=1), *(attempt(**change) for change in changes)]
    assert len(concatenate(parts)) == 14
    with pytest.raises(ValueError, match="has two rows"):
        concatenate([*parts, attempt(gradient_steps=9)])


def test_concatenation_refuses_two_values_of_one_name() -> None:
    first, second = attempt(metadata={"model": "a"}), attempt(seed=1, metadata={"model": "b"})
    with pytest.raises(ValueError, match="metadata 'model' is 'a' and 'b'"):
        concatenate([first, second])
    other = attempt(seed=1, metadata={"data": "c"})
    assert concatenate([first, other]).metadata == {"model": "a", "data": "c"}
    with pytest.raises(ValueError, match="tables is empty"):
        concatenate([])


def test_selection_keeps_the_rows_asked_for_and_the_clean_ones() -> None:
    table = random_table(0)
    names = ["attack 1", "attack 3"]
    chosen = table.select(attacks=names, up_to_radius=0.2)
    expected = [
        row
        for row in range(len(table))
        if table.attack[row] == "clean"
        or (table.attack[row] in names and float(table.radius[row]) <= 0.2)
    ]
    assert torch.equal(chosen.example, table.example[expected])
    assert torch.equal(chosen.defended.confidence, table.defended.confidence[expected])
    assert chosen.attack == tuple(table.attack[row] for row in expected)
    assert set(table.select(radius=0.3).attack) == {"clean", "attack 3"}
    assert len(table.select(norm="linf")) == len(table)


@pytest.mark.parametrize("arguments", [{"attacks": ["pgd"]}, {"attacks": "clean"}, {"norm": "l7"}])
def test_selection_refuses_names_that_no_row_has(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected (names among attack 1|one of linf)"):
        random_table(0).select(**arguments)


def test_an_empty_table_is_a_table() -> None:
    empty = random_table(0).take(torch.tensor([], dtype=torch.int64))
    assert len(empty) == 0
    assert len(concatenate([empty, empty])) == 0
