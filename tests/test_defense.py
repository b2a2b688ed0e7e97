"""`Defense`: the classifier at the point found, its gradient, its rejections, its threshold."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny_classifiers import Counting, convolutional, images, linear
from torch import Tensor, nn

import hcnn_fast as hf

CONFIGS = {
    "mcn": hf.SearchConfig.mcn(0.1, steps=3),
    "hcnn": hf.SearchConfig.hcnn(0.1, 0.3, steps=3),
    "ncn": hf.SearchConfig.ncn(0.1, 0.6, steps=3),
    "entropy": hf.SearchConfig.entropy(0.1, steps=3),
}
MODELS = {"linear": linear, "convolutional": convolutional}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("model", MODELS)
def test_forward_is_the_model_at_the_point_found(model: str, name: str) -> None:
    network, x = MODELS[model](), images()
    logits = hf.Defense(network, CONFIGS[name])(x)
    result = hf.search(network, x, CONFIGS[name])
    assert torch.equal(logits, result.logits)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, network(result.point), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_is_that_of_the_model_at_the_point_found(model: str, name: str) -> None:
    network, x = MODELS[model](dtype=torch.float64), images(dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    logits = hf.Defense(network, CONFIGS[name])(leaf)
    weight = torch.linspace(-1.0, 2.0, logits.numel(), dtype=torch.float64).view_as(logits)
    (got,) = torch.autograd.grad((logits * weight).sum(), leaf)

    point = hf.search(network, x, CONFIGS[name]).point.requires_grad_()
    at_point = network(point)
    (expected,) = torch.autograd.grad((at_point * weight).sum(), point)
    torch.testing.assert_close(logits.detach(), at_point.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert bool((got != 0).any())


def test_the_largest_confidence_has_the_gradient_that_danskin_promises() -> None:
    # measured by differences of whole searches; a linear model's maximiser moves with the image
    network, x = linear(dtype=torch.float64), 0.3 + 0.4 * images(2, dtype=torch.float64)
    config = hf.SearchConfig.mcn(0.05, steps=4)
    leaf = x.clone().requires_grad_()
    confidence = torch.softmax(hf.Defense(network, config)(leaf), 1).amax(1).sum()
    (slope,) = torch.autograd.grad(confidence, leaf)
    direction = torch.sign(slope)
    ahead, behind = (
        torch.softmax(hf.search(network, x + h * direction, config).logits, 1).amax(1).sum()
        for h in (1e-5, -1e-5)
    )
    measured = float(ahead - behind) / 2e-5
    assert measured == pytest.approx(float((slope * direction).sum()), rel=1e-4)


def test_gradients_reach_the_image_alone() -> None:
    network = convolutional()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    leaf = images().requires_grad_()
    hf.Defense(network, CONFIGS["mcn"])(leaf).sum().backward()
    assert leaf.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_gradients_flow_on_to_what_made_the_image() -> None:
    scale = torch.ones((), requires_grad=True)
    hf.Defense(linear(), CONFIGS["mcn"])(0.5 * images() * scale).sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) != 0.0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_forward_and_predict_work_without_gradients(context: Any) -> None:
    network, x = convolutional(), images()
    expected = hf.Defense(network, CONFIGS["mcn"])(x)
    with context():
        logits = hf.Defense(network, CONFIGS["mcn"])(x.clone().requires_grad_())
        prediction = hf.Defense(network, CONFIGS["mcn"]).predict(x)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
    assert torch.equal(prediction.search.logits, expected)


def test_predict_answers_with_the_search_behind_it() -> None:
    network, x = linear(), images(6)
    prediction = hf.Defense(network, CONFIGS["mcn"]).predict(x)
    result = hf.search(network, x, CONFIGS["mcn"])
    assert torch.equal(prediction.label, result.prediction)
    assert torch.equal(prediction.confidence, result.confidence)
    assert prediction.accepted.dtype == torch.bool
    assert prediction.accepted.all()
    assert torch.equal(prediction.search.point, result.point)


def test_predict_rejects_below_the_threshold_and_accepts_at_it() -> None:
    network, x = linear(), images(9)
    confidence = hf.search(network, x, CONFIGS["mcn"]).confidence
    threshold = float(confidence.sort().values[4])
    prediction = hf.Defense(network, CONFIGS["mcn"], threshold=threshold).predict(x)
    assert torch.equal(prediction.accepted, confidence >= threshold)
    assert int(prediction.accepted.sum()) == 5
    assert bool((prediction.label[~prediction.accepted] == -1).all())
    assert bool((prediction.label[prediction.accepted] >= 0).all())


def test_ncn_rejects_where_no_point_is_confident_enough() -> None:
    network, x = linear(), images(8)
    config = hf.SearchConfig.ncn(0.05, 0.5, steps=5)
    confidence = hf.search(network, x, config.replace(objective="mcn", confidence=None)).value
    between = float(confidence.sort().values[3:5].mean())  # some images reach it, others do not
    prediction = hf.Defense(network, config.replace(confidence=between)).predict(x)
    infeasible = prediction.search.label == -1
    assert 0 < int(infeasible.sum()) < 8
    assert torch.equal(prediction.accepted, ~infeasible)
    assert bool((prediction.label[infeasible] == -1).all())
    assert bool((prediction.search.value[infeasible] == -math.inf).all())


def threshold_by_brute_force(confidences: list[float], tpr: str) -> float:
    """The largest confidence whose acceptance keeps n - floor(n (1 - tpr)) of the n answers."""
    n = len(confidences)
    keep = n - math.floor(n * (1 - Fraction(tpr)))
    return max(t for t in confidences if sum(c >= t for c in confidences) >= keep)


@pytest.mark.parametrize("tpr", ["1", "0.99", "0.95", "0.9", "0.75", "0.7", "0.5", "0.1", "0.001"])
@pytest.mark.parametrize("count", [1, 2, 10, 20, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_calibrate_keeps_the_share_of_correct_answers_asked_for(
    count: int, tpr: str, ties: bool
) -> None:
    # two classes of logits (x, -x): the search moves x by the radius, so confidence rises with |x|
    x = torch.linspace(0.55, 0.95, count)
    x = ((x * 8).round() / 8 if ties else x)[:, None]
    defense = hf.Defense(two_classes, hf.SearchConfig.mcn(0.01, steps=2))
    y = torch.zeros(count, dtype=torch.int64)
    threshold = defense.calibrate(x, y, tpr=float(tpr))
    confidences = defense.predict(x).confidence.tolist()
    assert threshold == pytest.approx(threshold_by_brute_force(confidences, tpr), abs=1e-7)
    kept = sum(c >= threshold for c in confidences)
    assert kept >= math.ceil(Fraction(tpr) * count)
    assert defense.threshold == threshold


def two_classes(x: Tensor) -> Tensor:  # [N, 1] -> [N, 2]
    return torch.cat([4.0 * (x - 0.5), 4.0 * (0.5 - x)], 1)


def test_calibrate_looks_at_correct_answers_alone() -> None:
    x = torch.tensor([[0.1], [0.7], [0.8], [0.9]])
    y = torch.tensor([1, 1, 0, 0])  # the second is wrong
    defense = hf.Defense(two_classes, hf.SearchConfig.mcn(0.01, steps=2))
    threshold = defense.calibrate(x, y, tpr=1.0)
    confidence = defense.predict(x).confidence
    assert threshold == float(confidence[2])


def test_calibrate_leaves_infeasible_images_out() -> None:
    x = torch.tensor([[0.55], [0.8], [0.9]])
    y = torch.zeros(3, dtype=torch.int64)
    defense = hf.Defense(two_classes, hf.SearchConfig.ncn(0.01, 0.85, steps=4))
    defense.calibrate(x, y, tpr=1.0)
    prediction = defense.predict(x)
    assert prediction.accepted.tolist() == [False, True, True]


def test_calibrate_needs_a_correct_answer() -> None:
    x = torch.tensor([[0.9], [0.8]])
    defense = hf.Defense(two_classes, hf.SearchConfig.mcn(0.01, steps=2))
    with pytest.raises(ValueError, match="no correctly classified image"):
        defense.calibrate(x, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="no correctly classified image"):
        defense.calibrate(x[:0], torch.zeros(0, dtype=torch.int64))
    assert defense.threshold is None


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.1, math.nan, "0.9", None])
def test_a_share_outside_zero_to_one_is_refused(tpr: Any) -> None:
    model = Counting(two_classes)
    defense = hf.Defense(model, hf.SearchConfig.mcn(0.01, steps=2))
    with pytest.raises((ValueError, TypeError), match=r"^tpr is .*expected a number in \(0, 1\]"):
        defense.calibrate(torch.tensor([[0.9]]), torch.tensor([0]), tpr=tpr)
    assert model.calls == 0


def test_a_tiny_share_keeps_the_most_confident_answer() -> None:
    x = torch.linspace(0.6, 0.9, 5)[:, None]
    defense = hf.Defense(two_classes, hf.SearchConfig.mcn(0.01, steps=2))
    threshold = defense.calibrate(x, torch.zeros(5, dtype=torch.int64), tpr=1e-12)
    assert threshold == float(defense.predict(x).confidence.max())


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, "0.5", [0.5]])
def test_a_threshold_that_is_no_probability_is_refused(threshold: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^threshold is .*expected None or a number"):
        hf.Defense(linear(), CONFIGS["mcn"], threshold=threshold)


def test_a_config_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="config is a dict, expected a SearchConfig"):
        hf.Defense(linear(), {"radius": 0.1})  # type: ignore[arg-type]


def test_the_state_is_that_of_the_model() -> None:
    network = convolutional()
    defense = hf.Defense(network, CONFIGS["mcn"])
    state = defense.state_dict()
    assert set(state) == {f"model.{name}" for name in network.state_dict()}
    other = hf.Defense(convolutional(seed=1), CONFIGS["mcn"])
    x = images()
    assert not torch.equal(other(x), defense(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), defense(x))
    assert list(defense.parameters()) == list(network.parameters())


def test_to_and_train_reach_the_model_and_leave_the_answer() -> None:
    network, x = convolutional(), images()
    defense = hf.Defense(network, CONFIGS["mcn"])
    expected = defense(x)
    assert defense.train() is defense
    assert network.training
    assert torch.equal(defense(x), expected)
    assert network[1].training
    defense.eval()
    assert not network.training
    double = defense.to(torch.float64)(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-3, atol=1e-3)


def test_a_defense_is_a_module_among_others() -> None:
    defense = hf.Defense(linear(), CONFIGS["mcn"])
    whole = nn.Sequential(nn.Identity(), defense)
    assert torch.equal(whole(images()), defense(images()))
    twin = copy.deepcopy(defense)
    assert torch.equal(twin(images()), defense(images()))
    assert defense.is_dynamic


def test_a_defense_of_a_plain_callable_has_no_parameters() -> None:
    network = linear()
    defense = hf.Defense(lambda x: network(x), CONFIGS["mcn"])
    assert defense.state_dict() == {}
    assert torch.equal(defense(images()), hf.Defense(network, CONFIGS["mcn"])(images()))
    leaf = images().requires_grad_()
    defense(leaf).sum().backward()
    assert leaf.grad is not None


def test_an_update_of_the_weights_is_seen_by_the_next_answer() -> None:
    network, x = convolutional(), images()
    defense = hf.Defense(network, CONFIGS["mcn"])
    before = defense(x)
    with torch.no_grad():
        network[5].bias += torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0])
    assert not torch.equal(defense(x), before)


def test_an_empty_batch_gives_empty_answers() -> None:
    defense = hf.Defense(linear(), CONFIGS["mcn"], threshold=0.5)
    assert defense(images(0)).shape == (0, 5)
    assert defense.predict(images(0)).label.shape == (0,)


@pytest.mark.filterwarnings("ignore")
def test_torchattacks_attacks_a_defense_like_any_classifier() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    network, x = linear(), images()
    defense = hf.Defense(network, CONFIGS["mcn"].replace(radius=0.02)).eval()
    y = defense(x).argmax(1)
    attack = torchattacks.PGD(defense, eps=0.1, alpha=0.05, steps=3, random_start=False)
    z = attack(x, y)
    assert float((z - x).abs().max()) <= 0.1 + 1e-6
    loss = nn.CrossEntropyLoss()
    assert float(loss(defense(z), y)) > float(loss(defense(x), y))
