"""Binary linear classifiers: every objective has a closed form or a convex solver as its truth."""

from __future__ import annotations

import math

import closed_forms as truth
import numpy as np
import pytest
import torch
from scipy import optimize, special

import hcnn_fast as hf

SEEDS = range(6)
NORMS = ("linf", "l2", "l1")
VALUE = 1e-5  # how near an attained objective comes to its closed form

boxes = pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])
backends = pytest.mark.parametrize("backend", ["cpu", "reference"], indirect=True)


def search(case: truth.BinaryCase, config: hf.SearchConfig) -> hf.SearchResult:
    model = truth.classifier(case.weight, case.bias)
    return hf.search(model, torch.from_numpy(case.x), config)


def assert_within(case: truth.BinaryCase, points: torch.Tensor) -> None:  # [N, L, D]
    z = points.numpy()
    assert np.abs(z - case.x[:, None]).max() <= case.radius + 1e-12
    assert case.bounds[0] <= z.min() <= z.max() <= case.bounds[1]


# T-A1: the most confident neighbour is a corner of the ball.


def most_odds(case: truth.BinaryCase) -> np.ndarray:  # [N, 2]
    slope = np.abs(case.weight)
    return case.odds + np.stack([case.room(0) @ slope, case.room(1) @ slope], axis=1)


@backends
@boxes
@pytest.mark.parametrize("schedule", ["decay", "constant"])
@pytest.mark.parametrize("seed", SEEDS)
def test_mcn_attains_the_sigmoid_of_the_corner(
    seed: int, schedule: str, box: bool, backend: str
) -> None:
    case = truth.binary_case(seed, box=box)
    config = hf.SearchConfig.mcn(
        case.radius,
        bounds=case.bounds,
        schedule=schedule,
        backend=backend,
        steps=5,
        keep_points=True,
    )
    result = search(case, config)
    best = most_odds(case)
    np.testing.assert_allclose(result.label_value, truth.sigmoid(best), rtol=0, atol=VALUE)
    assert result.label_point is not None
    assert_within(case, result.label_point)
    clear = np.abs(best[:, 1] - best[:, 0]) > 1e-6
    np.testing.assert_array_equal(result.label.numpy()[clear], best.argmax(1)[clear])


def test_mcn_of_the_reference_attains_the_sigmoid_of_the_corner() -> None:
    for seed in (0, 1):
        case = truth.binary_case(seed, box=seed == 1, images=4)
        config = hf.SearchConfig.mcn(case.radius, bounds=case.bounds, steps=4)
        model = truth.classifier(case.weight, case.bias)
        result = hf.reference.search(model, torch.from_numpy(case.x), config)
        best = truth.sigmoid(most_odds(case))
        np.testing.assert_allclose(result.label_value, best, rtol=0, atol=VALUE)


@pytest.mark.parametrize("seed", SEEDS)
def test_mcn_without_bounds_never_changes_a_binary_linear_prediction(seed: int) -> None:
    case = truth.binary_case(seed, box=False, images=64)
    result = search(case, hf.SearchConfig.mcn(case.radius, bounds=case.bounds, steps=3))
    np.testing.assert_array_equal(result.label, case.odds.argmax(1))
    np.testing.assert_array_equal(result.prediction, case.odds.argmax(1))


def test_mcn_in_a_box_flips_exactly_where_the_room_of_the_other_label_is_larger() -> None:
    flips = 0
    for seed in range(12):
        case = truth.binary_case(seed, box=True, images=40, reach=8.0)
        result = search(case, hf.SearchConfig.mcn(case.radius, bounds=case.bounds, steps=3))
        slope = np.abs(case.weight)
        advantage = (case.room(0) - case.room(1)) @ slope  # R- - R+
        twice = 2.0 * case.odds[:, 1]  # 2 Z
        expected = np.where(twice > 0, twice >= advantage, twice > advantage).astype(int)
        clear = np.abs(twice - advantage) > 1e-6
        np.testing.assert_array_equal(result.label.numpy()[clear], expected[clear])
        flips += int((expected != case.odds.argmax(1)).sum())
    assert flips >= 20  # the claim is not empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_mcn_without_bounds_keeps_a_prediction_whose_rivals_are_as_good_as_certain(
    dtype: torch.dtype,
) -> None:
    """Both labels reach a probability that rounds to 1; the larger of them still wins."""
    case = truth.binary_case(0, box=False, images=64, reach=4.0)
    strong = truth.BinaryCase(case.weight * 15, case.bias * 15, case.x, case.radius, case.bounds)
    assert np.median(most_odds(strong)) > 37.0  # where a float64 probability rounds to 1
    model = truth.classifier(strong.weight, strong.bias, dtype)
    config = hf.SearchConfig.mcn(strong.radius, bounds=strong.bounds, steps=3)
    for search_by in (hf.search, hf.reference.search):
        result = search_by(model, torch.from_numpy(strong.x).to(dtype), config)
        clear = np.abs(strong.odds[:, 1]) > 1e-3
        np.testing.assert_array_equal(
            result.label.numpy()[clear], strong.odds.argmax(1)[clear]
        )


# T-A2: HCNN weighs the same gain against a distance.


def hcnn_truth(case: truth.BinaryCase, weight: float, norm: str) -> np.ndarray:  # [N, 2]
    slope = np.abs(case.weight)
    return np.array(
        [
            [truth.hcnn_value(odds[k], slope, case.room(k)[n], weight, norm) for k in (0, 1)]
            for n, odds in enumerate(case.odds)
        ]
    )


def linf_closed_form(odds: np.ndarray, total: float, radius: float, weight: float) -> np.ndarray:
    """max over r in [0, radius] of sigmoid(odds + r W) - weight r, W the l1 norm of the slope."""
    lengths = [np.zeros_like(odds), np.full_like(odds, radius)]
    if weight <= total / 4:  # where the slope W s (1 - s) of the gain equals the weight
        s = (1.0 + math.sqrt(1.0 - 4.0 * weight / total)) / 2.0
        lengths.append(np.clip((truth.logit(s) - odds) / total, 0.0, radius))
    return np.max([truth.sigmoid(odds + r * total) - weight * r for r in lengths], axis=0)


def relative_weight(case: truth.BinaryCase, share: float, norm: str) -> float:
    """A distance weight as a share of the steepest gain per distance, which is four times this."""
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    return share * float(np.linalg.norm(case.weight, ord=dual))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.249])
def test_the_grid_agrees_with_the_closed_form_of_hcnn(share: float) -> None:
    for seed in SEEDS:
        case = truth.binary_case(seed, box=False)
        weight = relative_weight(case, share, "linf")
        total = np.abs(case.weight).sum()
        expected = linf_closed_form(case.odds, total, case.radius, weight)
        np.testing.assert_allclose(hcnn_truth(case, weight, "linf"), expected, rtol=0, atol=1e-9)


@backends
@boxes
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_hcnn_attains_the_best_trade_off_of_gain_and_distance(
    share: float, norm: str, box: bool, backend: str
) -> None:
    for seed in SEEDS:
        case = truth.binary_case(seed, box=box, images=4)
        weight = relative_weight(case, share, norm)
        config = hf.SearchConfig.hcnn(
            case.radius,
            weight,
            norm,
            bounds=case.bounds,
            backend=backend,
            steps=100,
            keep_points=True,
        )
        result = search(case, config)
        best = hcnn_truth(case, weight, norm)
        assert result.label_point is not None
        assert_within(case, result.label_point)
        got = result.label_value.double().numpy()
        away = truth.norm(result.label_point.numpy() - case.x[:, None], norm)
        odds = result.label_point.numpy() @ case.weight + case.bias
        attained = truth.sigmoid(np.stack([-odds[:, 0], odds[:, 1]], axis=1)) - weight * away
        np.testing.assert_allclose(got, attained, rtol=0, atol=1e-7)
        print(norm, box, share, seed, (best - got).max())
