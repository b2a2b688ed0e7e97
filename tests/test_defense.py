"""Defense: the search as a classifier that answers, rejects, and passes gradients."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_classifiers import convolutional, images, linear

import hcnn_fast as hf

CONFIG = hf.SearchConfig.mcn(0.05, steps=3)


def test_forward_gives_the_logits_of_the_search() -> None:
    x = images()
    expected = hf.search(convolutional(), x, CONFIG).logits
    assert torch.equal(hf.Defense(convolutional(), CONFIG)(x), expected)


def test_gradients_pass_the_search_unchanged() -> None:
    model = convolutional(dtype=torch.float64)
    x = images(dtype=torch.float64).requires_grad_()
    weights = torch.randn(4, 5, dtype=torch.float64)
    (hf.Defense(model, CONFIG)(x) * weights).sum().backward()
    point = hf.search(model, x, CONFIG).point.requires_grad_()
    (expected,) = torch.autograd.grad((model(point) * weights).sum(), point)
    torch.testing.assert_close(x.grad, expected)
    assert all(p.grad is None for p in model.parameters())


def test_logits_are_the_same_with_and_without_gradients() -> None:
    x = images()
    defense = hf.Defense(convolutional(), CONFIG)
    with torch.no_grad():
        plain = defense(x)
    torch.testing.assert_close(defense(x.clone().requires_grad_()).detach(), plain)
    with torch.inference_mode():
        torch.testing.assert_close(defense(x), plain)


def test_predict_rejects_what_is_below_the_threshold() -> None:
    x = images(32)
    everything = hf.Defense(linear(), CONFIG).predict(x)
    assert bool(everything.accepted.all())
    assert torch.equal(everything.label, everything.search.prediction)
    threshold = float(everything.confidence.median())
    some = hf.Defense(linear(), CONFIG, threshold=threshold).predict(x)
    assert torch.equal(some.accepted, everything.confidence >= threshold)
    assert 0 < int(some.accepted.sum()) < 32
    assert bool((some.label[~some.accepted] == -1).all())
    assert torch.equal(some.label[some.accepted], everything.label[some.accepted])


def test_an_infeasible_nearest_neighbour_is_rejected_without_a_threshold() -> None:
    config = hf.SearchConfig.ncn(1e-4, confidence=0.9999, steps=2)
    prediction = hf.Defense(linear(), config).predict(images())
    assert not bool(prediction.accepted.any())
    assert prediction.label.tolist() == [-1] * 4


@pytest.mark.parametrize("tpr", [0.5, 0.9, 0.99, 1.0])
def test_calibration_keeps_the_asked_share_and_no_more(tpr: float) -> None:
    x = images(60)
    model = linear()
    found = hf.search(model, x, CONFIG)
    y = found.prediction.clone()
    y[::4] = (y[::4] + 1) % 5  # a quarter is wrong
    right = sorted(found.confidence[found.prediction == y].tolist())
    defense = hf.Defense(model, CONFIG)
    threshold = defense.calibrate(x, y, tpr=tpr)
    assert threshold == defense.threshold
    kept = sum(c >= threshold for c in right)
    assert kept >= tpr * len(right) - 1e-9
    assert sum(c > threshold for c in right) < tpr * len(right)
    assert threshold == right[math.floor(round(len(right) * (1 - tpr), 9))]


def test_calibration_needs_a_right_answer_and_a_share() -> None:
    x = images()
    defense = hf.Defense(linear(), CONFIG)
    wrong = (hf.search(linear(), x, CONFIG).prediction + 1) % 5
    with pytest.raises(ValueError, match="no correctly classified image"):
        defense.calibrate(x, wrong)
    with pytest.raises(ValueError, match="tpr is 0"):
        defense.calibrate(x, wrong, tpr=0.0)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is"):
        hf.Defense(linear(), CONFIG, threshold=threshold)


def test_a_configuration_is_required() -> None:
    with pytest.raises(TypeError, match="config is a dict"):
        hf.Defense(linear(), {"radius": 0.1})  # type: ignore[arg-type]


def test_it_is_a_module_around_the_model_and_declares_itself_dynamic() -> None:
    model = convolutional()
    defense = hf.Defense(model, CONFIG)
    assert defense.is_dynamic
    assert list(defense.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    x = images(dtype=torch.float64)
    assert defense.double().train()(x).dtype == torch.float64
