"""Binary linear classifiers: every objective has a closed form or a convex solver as its truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    strong = truth.BinaryCase(case.weight * 20, case.bias * 20, case.x, case.radius, case.bounds)
    assert np.median(most_odds(strong)) > 37.0  # where a float64 probability rounds to 1
    model = truth.classifier(strong.weight, strong.bias, dtype)
    config = hf.SearchConfig.mcn(strong.radius, bounds=strong.bounds, steps=3)
    for search_by in (hf.search, hf.reference.search):
        result = search_by(model, torch.from_numpy(strong.x).to(dtype), config)
        clear = np.abs(strong.odds[:, 1]) > 1e-3
        np.testing.assert_array_equal(result.label.numpy()[clear], strong.odds.argmax(1)[clear])


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


def assert_attains_the_best_trade_off(
    case: truth.BinaryCase, share: float, norm: str, backend: str
) -> None:
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
    assert result.label_point is not None
    assert_within(case, result.label_point)
    got = result.label_value.double().numpy()
    away = truth.norm(result.label_point.numpy() - case.x[:, None], norm)
    odds = result.label_point.numpy() @ case.weight + case.bias
    attained = truth.sigmoid(np.stack([-odds[:, 0], odds[:, 1]], axis=1)) - weight * away
    np.testing.assert_allclose(got, attained, rtol=0, atol=1e-6)
    # l1 wants the entries filled one after the other, which signed steps only approximate.
    limit = 2e-4 if norm == "l1" else VALUE
    np.testing.assert_allclose(got, hcnn_truth(case, weight, norm), rtol=0, atol=limit)


@boxes
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_hcnn_attains_the_best_trade_off_of_gain_and_distance(
    share: float, norm: str, box: bool
) -> None:
    for seed in SEEDS:
        case = truth.binary_case(seed, box=box, images=4)
        assert_attains_the_best_trade_off(case, share, norm, "cpu")


@boxes
@pytest.mark.parametrize("norm", NORMS)
def test_hcnn_on_the_reference_operations_attains_it_too(norm: str, box: bool) -> None:
    case = truth.binary_case(1, box=box, images=2)
    assert_attains_the_best_trade_off(case, 0.1, norm, "reference")


def test_hcnn_of_the_reference_attains_the_best_trade_off() -> None:
    case = truth.binary_case(2, box=False, images=1)
    weight = relative_weight(case, 0.1, "linf")
    config = hf.SearchConfig.hcnn(case.radius, weight, bounds=case.bounds, steps=50)
    model = truth.classifier(case.weight, case.bias)
    result = hf.reference.search(model, torch.from_numpy(case.x), config)
    best = hcnn_truth(case, weight, "linf")
    np.testing.assert_allclose(result.label_value, best, rtol=0, atol=VALUE)


@pytest.mark.parametrize("norm", NORMS)
def test_hcnn_leaves_the_image_even_where_the_whole_way_costs_more_than_it_gains(
    norm: str,
) -> None:
    """The best point lies between an image on flat ground and a corner that is too far."""
    weight = np.array([20.0, 20.0])
    x = np.array([[0.5, 0.5]])
    case = truth.BinaryCase(weight, -3.0 - 20.0, x, radius=0.45, bounds=(0.0, 1.0))
    penalty = relative_weight(case, 0.1, norm)
    best = hcnn_truth(case, penalty, norm)[0, 1]
    at_image = float(truth.sigmoid(case.odds[0, 1]))
    at_corner = 1.0 - penalty * float(truth.norm(np.full(2, case.radius), norm))
    assert best > at_image + 0.1
    assert at_corner < at_image
    config = hf.SearchConfig.hcnn(case.radius, penalty, norm, steps=100)
    model = truth.classifier(case.weight, case.bias)
    for search_by in (hf.search, hf.reference.search):
        result = search_by(model, torch.from_numpy(case.x), config)
        assert float(result.label_value[0, 1]) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_hcnn_stays_where_no_gain_is_worth_its_distance(norm: str) -> None:
    for seed in SEEDS:
        case = truth.binary_case(seed, box=False, images=4)
        weight = relative_weight(case, 0.26, norm)  # more than a quarter: steeper than any sigmoid
        config = hf.SearchConfig.hcnn(case.radius, weight, norm, bounds=case.bounds, steps=10)
        result = search(case, config)
        np.testing.assert_array_equal(result.point, case.x)
        np.testing.assert_allclose(result.label_value, truth.sigmoid(case.odds), rtol=0, atol=1e-7)


# T-A3: NCN projects the image onto the half-space of confident points.


def ncn_truth(case: truth.BinaryCase, needed: np.ndarray, norm: str) -> np.ndarray:  # [N, 2]
    slope = np.abs(case.weight)
    return np.array(
        [
            [truth.nearest_distance(row[k], slope, case.room(k)[n], norm) for k in (0, 1)]
            for n, row in enumerate(needed)
        ]
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_solvers_agree_with_the_distance_to_a_half_space(norm: str) -> None:
    rng = np.random.default_rng(0)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    for _ in range(20):
        slope = rng.uniform(0.1, 1.0, size=5)
        needed = float(rng.uniform(0.0, 1.0))
        expected = needed / np.linalg.norm(slope, ord=dual)
        got = truth.nearest_distance(needed, slope, np.full(5, 100.0), norm)
        assert got == pytest.approx(expected, rel=1e-7)


def assert_nearest(case: truth.BinaryCase, confidence: float, norm: str, backend: str) -> int:
    """Check every label of every image; the number that are infeasible."""
    config = hf.SearchConfig.ncn(
        case.radius, confidence, norm, bounds=case.bounds, backend=backend, keep_points=True
    )
    result = search(case, config)
    assert result.label_point is not None
    assert_within(case, result.label_point)
    needed = truth.logit(confidence) - case.odds
    nearest = ncn_truth(case, needed, norm)
    # The search aims 1e-4 log odds beyond the threshold, so that it arrives inside.
    beyond = ncn_truth(case, needed + 2e-4, norm)
    found = -result.label_value.double().numpy()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(nearest))
    feasible = np.isfinite(nearest)
    most = case.odds + np.stack([case.room(k) @ np.abs(case.weight) for k in (0, 1)], axis=1)
    corner = np.stack([truth.norm(case.room(k), norm) for k in (0, 1)], axis=1)
    beyond = np.where(np.isfinite(beyond), beyond, corner)  # only the last corner is confident
    tiny = 1e-6 * case.radius
    assert (found[feasible] >= nearest[feasible] * (1 - 1e-6) - tiny).all()
    assert (found[feasible] <= beyond[feasible] * (1 + 1e-6) + tiny).all()
    odds = result.label_point.numpy() @ case.weight + case.bias
    reached = np.stack([-odds[:, 0], odds[:, 1]], axis=1)
    assert (reached >= truth.logit(confidence))[feasible].all()
    np.testing.assert_allclose(reached[~feasible], most[~feasible], rtol=0, atol=1e-9)
    # The image: its nearest label, or an abstention at its most confident point.
    hopeless = ~feasible.any(1)
    np.testing.assert_array_equal(result.label.numpy() == -1, hopeless)
    np.testing.assert_array_equal(np.isneginf(result.value.numpy()), hopeless)
    winner = np.where(hopeless, most.argmax(1), found.argmin(1))
    at_winner = result.label_point.numpy()[np.arange(len(winner)), winner]
    np.testing.assert_array_equal(result.point, at_winner)
    return int((~feasible).sum())


@boxes
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("confidence", [0.6, 0.95])
def test_ncn_finds_the_distance_to_the_confident_half_space(
    confidence: float, norm: str, box: bool
) -> None:
    infeasible = 0
    for seed in SEEDS:
        case = truth.binary_case(seed, box=box, images=4, reach=6.0)
        infeasible += assert_nearest(case, confidence, norm, "cpu")
    labels = 2 * 4 * len(SEEDS)
    assert infeasible < labels - labels // 10
    assert infeasible > labels // 10 or confidence < 0.9  # both kinds are tried


@boxes
@pytest.mark.parametrize("norm", NORMS)
def test_ncn_on_the_reference_operations_finds_it_too(norm: str, box: bool) -> None:
    assert_nearest(truth.binary_case(3, box=box, images=2, reach=6.0), 0.7, norm, "reference")


@pytest.mark.parametrize("norm", NORMS)
def test_ncn_of_the_reference_finds_the_distance(norm: str) -> None:
    case = truth.binary_case(4, box=True, images=3)
    model = truth.classifier(case.weight, case.bias)
    config = hf.SearchConfig.ncn(case.radius, 0.8, norm, steps=10)
    result = hf.reference.search(model, torch.from_numpy(case.x), config)
    nearest = ncn_truth(case, truth.logit(0.8) - case.odds, norm)
    np.testing.assert_allclose(
        -result.label_value.double(), nearest, rtol=1e-3, atol=1e-3 * case.radius
    )


# Multiclass softmax regression: logit F_l is concave, so its confident points are a convex set.


@dataclass(frozen=True)
class Softmax:
    """An image x [D] and a classifier with logits weight . x + bias."""

    weight: np.ndarray  # [C, D]
    bias: np.ndarray  # [C]
    x: np.ndarray  # [D]
    radius: float

    def margin(self, d: np.ndarray, label: int, confidence: float) -> float:
        """Log odds of the label at x + d beyond the threshold: >= 0 where it is confident."""
        z = self.weight @ (self.x + d) + self.bias
        rest = special.logsumexp(np.delete(z, label))
        return float(z[label] - rest - truth.logit(confidence))

    def slope(self, d: np.ndarray, label: int) -> np.ndarray:  # [D]
        z = self.weight @ (self.x + d) + self.bias
        share = special.softmax(np.delete(z, label))
        return self.weight[label] - share @ np.delete(self.weight, label, axis=0)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:  # [D], [D]
        low = np.maximum(self.x - self.radius, 0.0) - self.x
        return low, np.minimum(self.x + self.radius, 1.0) - self.x

    def distance_by_tangents(self, label: int, confidence: float, norm: str) -> float:
        """Distance to the confident points by cutting planes, to 1e-3 of itself; inf for none.

        Confident points lie on the upper side of every tangent of the concave margin. The nearest
        point that is above all tangents so far comes from linear (l_inf, l1) or quadratic
        programming (l2) and gives the next tangent.
        """
        rows: list[np.ndarray] = []
        needed: list[float] = []
        d = np.zeros_like(self.x)
        if self.margin(d, label, confidence) >= 0.0:
            return 0.0
        for _ in range(500):
            g = self.slope(d, label)
            rows.append(g)
            needed.append(float(g @ d) - self.margin(d, label, confidence))
            nearest = _nearest_above(np.array(rows), np.array(needed), *self.bounds(), norm)
            if nearest is None:
                return math.inf
            d = nearest
            if self.margin(d, label, confidence) >= -1e-6:
                return float(truth.norm(d, norm))
        raise AssertionError("the tangents do not close in")


def _nearest_above(
    rows: np.ndarray,  # [T, D]
    needed: np.ndarray,  # [T]
    low: np.ndarray,  # [D]
    high: np.ndarray,  # [D]
    norm: str,
) -> np.ndarray | None:  # [D]
    """argmin |d| with rows . d >= needed and low <= d <= high, or None."""
    dimension = len(low)
    split = np.hstack([np.eye(dimension), -np.eye(dimension)])  # d = p - n with p, n >= 0
    ranges = [(0.0, h) for h in high] + [(0.0, -lo) for lo in low]
    level = np.hstack([np.eye(2 * dimension), -np.ones((2 * dimension, 1))])
    above = np.hstack([-rows @ split, np.zeros((len(rows), 1))])
    if norm == "linf":
        cost = np.append(np.zeros(2 * dimension), 1.0)
        table, limits = np.vstack([above, level]), np.append(-needed, np.zeros(2 * dimension))
    else:
        cost = np.append(np.ones(2 * dimension), 0.0)
        table, limits = above, -needed
    solved = optimize.linprog(
        cost, A_ub=table, b_ub=limits, bounds=[*ranges, (0.0, None)], method="highs"
    )
    if solved.status == 2:
        return None
    assert solved.success, solved.message
    if norm != "l2":
        return split @ solved.x[:-1]

    best = optimize.minimize(
        lambda d: 0.5 * d @ d,
        split @ solved.x[:-1],
        jac=lambda d: d,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: rows @ d - needed, "jac": lambda d: rows},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success, best.message
    return np.clip(best.x, low, high)


def softmax_case(seed: int, images: int) -> list[Softmax]:
    rng = np.random.default_rng(seed)
    dimension, classes = 4, 4
    weight = 4.0 * rng.normal(size=(classes, dimension))
    x = rng.uniform(0.0, 1.0, size=(images, dimension))
    bias = rng.normal(size=classes) - weight @ x.mean(0)
    return [Softmax(weight, bias, row, radius=0.3) for row in x]


@pytest.mark.parametrize("norm", NORMS)
def test_ncn_on_softmax_regression_comes_near_the_distance_by_cutting_planes(norm: str) -> None:
    confidence = 0.7
    ratios = []
    for seed in range(8):
        cases = softmax_case(seed, images=3)
        model = truth.classifier(cases[0].weight, cases[0].bias)
        x = torch.from_numpy(np.stack([case.x for case in cases]))
        config = hf.SearchConfig.ncn(0.3, confidence, norm, steps=40)
        found = -hf.search(model, x, config).label_value.double().numpy()
        for n, case in enumerate(cases):
            for label in range(4):
                nearest = case.distance_by_tangents(label, confidence, norm)
                assert math.isinf(nearest) == math.isinf(found[n, label])
                assert found[n, label] >= nearest * (1.0 - 1e-3)
                if 0.0 < nearest < math.inf:
                    ratios.append(found[n, label] / nearest)
    assert len(ratios) >= 30
    near = np.mean(np.array(ratios) <= 1.01)
    # The nearest point for l_inf and l1 often lies where two rivals tie, which smooth steps circle.
    assert near >= (0.95 if norm == "l2" else 0.7), f"{near:.0%} within 1 %"
    assert max(ratios) <= (1.05 if norm == "l2" else 1.4)
