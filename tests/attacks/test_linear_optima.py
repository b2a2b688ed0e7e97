"""Attacks on softmax regression reach the optimum, which formulas and solvers know."""

from __future__ import annotations

from typing import Any

import closed_forms as truth
import numpy as np
import pytest
import torch
from softmax_regression import interval, most_probable, random_regression, worst_margin

from hcnn_fast import attacks

SEEDS = range(5)
CLASSES = 5
boxes = pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])


def regression(seed: int, *, box: bool, images: int = 6) -> tuple[Any, ...]:
    """weight [C, D], bias [C], x [N, D], y [N] predictions, bounds; some images can be lost."""
    weight, bias, x, bounds = random_regression(
        seed, box=box, dimension=12, classes=CLASSES, images=images
    )
    return weight, bias, x, (x @ weight.T + bias).argmax(1), bounds


def attack(name: str, case: tuple[Any, ...], radius: float, **keywords: Any) -> Any:
    weight, bias, x, y, bounds = case
    model = truth.classifier(weight, bias)
    points, labels = torch.from_numpy(x), torch.from_numpy(y)
    result = getattr(attacks, name)(model, points, labels, radius=radius, bounds=bounds, **keywords)
    low, high = bounds
    assert bool(((result.point >= low) & (result.point <= high)).all())
    return result


def margins(case: tuple[Any, ...], radius: float) -> np.ndarray:
    """The worst margin of each image in the l_inf ball."""
    weight, bias, x, y, bounds = case
    low, high = interval(x, radius, bounds)
    return np.array([worst_margin(weight, bias, low[n], high[n], int(k)) for n, k in enumerate(y)])


@boxes
@pytest.mark.parametrize("seed", SEEDS)
def test_strengthened_pgd_reaches_the_largest_wrong_confidence(seed: int, box: bool) -> None:
    case, radius = regression(seed, box=box, images=12), 0.1
    weight, bias, x, y, bounds = case
    result = attack("strengthened_pgd", case, radius, starts=2, steps=200, step_size=0.002)
    wrong = np.array(
        [
            [
                -1.0 if k == y[n] else most_probable(weight, bias, row, radius, bounds, k)
                for k in range(CLASSES)
            ]
            for n, row in enumerate(x)
        ]
    )
    # Below 1/2 an error of less confidence may be kept in place of a point that is none.
    sure = (wrong.max(1) > 0.5) | (margins(case, radius) < 0)
    assert sure.sum() >= 2
    np.testing.assert_allclose(result.value.numpy()[sure], wrong.max(1)[sure], rtol=0, atol=1e-4)
    assert (result.value.numpy() <= wrong.max(1) + 1e-6).all()
    ranked = np.sort(wrong, axis=1)
    clear = sure & (ranked[:, -1] - ranked[:, -2] > 1e-3)
    place = wrong.argmax(1) - (wrong.argmax(1) > y)  # among the wrong classes
    np.testing.assert_array_equal((result.attempt.numpy() // 2)[clear], place[clear])


@boxes
@pytest.mark.parametrize("seed", SEEDS)
def test_event_b_is_decided_as_by_the_convex_programme(seed: int, box: bool) -> None:
    case, radius = regression(seed, box=box), 0.1
    weight, bias, x, y, bounds = case
    most = np.array(
        [
            max(
                most_probable(weight, bias, row, radius, bounds, k)
                for k in range(CLASSES)
                if k != y[n]
            )
            for n, row in enumerate(x)
        ]
    )
    for confidence in (0.3, 0.6, 0.9):
        clear = np.abs(most - confidence) > 1e-3
        for name in ("confident_pgd", "confident_cw"):
            result = attack(name, case, radius, confidence=confidence)
            expected = most >= confidence
            np.testing.assert_array_equal(result.success.numpy()[clear], expected[clear], name)
            reached = result.value.numpy()
            assert (reached[result.success.numpy()] >= confidence - 1e-6).all()
            assert (reached <= most + 1e-6).all()


@boxes
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_reaches_the_worst_margin(seed: int, norm: str, box: bool) -> None:
    case = regression(seed, box=box)
    weight, bias, x, y, bounds = case
    radius = {"linf": 0.1, "l2": 0.3}[norm]
    result = attack("apgd_targeted", case, radius, norm=norm, objective="margin", steps=60)
    expected = []
    for n, label in enumerate(y):
        gains = []
        for k in set(range(CLASSES)) - {int(label)}:
            slope = weight[k] - weight[label]
            room = np.where(slope > 0, bounds[1] - x[n], x[n] - bounds[0])
            reach = np.minimum(room, radius) if norm == "linf" else room
            gain = truth.largest_gain(np.abs(slope), reach, radius, norm)
            gains.append(slope @ x[n] + bias[k] - bias[label] + gain)
        expected.append(max(gains))
    # errors come first: their margins are the positive ones, of which the largest is kept
    np.testing.assert_allclose(result.value.numpy(), expected, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(result.success.numpy(), np.array(expected) > 0)


@boxes
def test_margin_dlr_and_cross_entropy_agree_on_softmax_regression(box: bool) -> None:
    """An image can be lost if and only if its worst margin is positive, whatever rises."""
    lost = 0
    for seed in SEEDS:
        case, radius = regression(seed, box=box), 0.06
        worst = margins(case, radius)
        for name, objectives, keywords in (
            ("pgd", ("margin", "cross_entropy", "log_odds", "dlr"), {"starts": 30, "steps": 30}),
            ("apgd_targeted", ("margin", "dlr", "confidence"), {}),
        ):
            for objective in objectives:
                result = attack(name, case, radius, objective=objective, **keywords)
                # margins have no local maxima that random corners miss; the others may
                clear = np.abs(worst) > (1e-3 if objective == "margin" else 0.1)
                np.testing.assert_array_equal(result.success.numpy()[clear], worst[clear] > 0)
                assert not result.success.numpy()[worst < 0].any()
        lost += int((worst > 0).sum())
    assert 5 < lost < 25  # both happen


@boxes
@pytest.mark.parametrize("factor", [0.3, 1.0, 20.0])
def test_robust_accuracy_of_a_binary_model_depends_on_the_direction_alone(
    factor: float, box: bool
) -> None:
    """Models of proportional weights, such as with and without label smoothing (T-D2)."""
    robust = lost = 0
    for seed in SEEDS:
        case = truth.binary_case(seed, box=box, images=30, reach=2.0)
        weight, bias, x = factor * case.weight, factor * case.bias, torch.from_numpy(case.x)
        model = truth.classifier(weight, bias)
        y = torch.from_numpy((case.odds[:, 1] > 0).astype(np.int64))
        flips = np.array(
            [
                case.odds[n, 1 - label] + np.abs(case.weight) @ case.room(1 - label)[n] > 0
                for n, label in enumerate(y.tolist())
            ]
        )
        robust, lost = robust + (~flips).sum(), lost + flips.sum()
        settings: dict[str, Any] = {"radius": case.radius, "bounds": case.bounds}
        for result in (
            attacks.pgd(model, x, y, **settings),
            attacks.pgd_conf(model, x, y, steps=60, **settings),
            attacks.strengthened_pgd(model, x, y, starts=1, **settings),
            attacks.apgd_targeted(model, x, y, objective="margin", **settings),
        ):
            np.testing.assert_array_equal(result.success.numpy(), flips)
    assert min(robust, lost) > 20


def test_the_nearest_confident_point_of_a_binary_model_is_approached() -> None:
    for seed in SEEDS:
        case = truth.binary_case(seed, box=True, images=8, reach=6.0)
        model, x = truth.classifier(case.weight, case.bias), torch.from_numpy(case.x)
        y = torch.from_numpy((case.odds[:, 1] > 0).astype(np.int64))
        result = attacks.confident_cw(
            model,
            x,
            y,
            radius=case.radius,
            confidence=0.6,
            bounds=case.bounds,
            rounds=30,
            steps=100,
        )
        for n, label in enumerate(y.tolist()):
            needed = truth.logit(0.6) - case.odds[n, 1 - label]
            least = truth.nearest_distance(
                needed, np.abs(case.weight), case.room(1 - label)[n], "linf"
            )
            assert bool(result.success[n]) == (least < np.inf)
            if least < np.inf:
                distance = float((result.point[n] - x[n]).abs().max())
                assert least - 1e-9 <= distance <= 1.1 * least


@pytest.mark.parametrize("power", range(-3, 7))
def test_decisions_do_not_depend_on_the_scale_of_the_logits(power: int) -> None:
    case, radius = regression(3, box=True, images=24), 0.08
    weight, bias, x, y, bounds = case
    worst = margins(case, radius)
    clear = np.abs(worst) > 1e-2
    assert 3 < (worst > 0).sum() < 21
    model = truth.classifier(10.0**power * weight, 10.0**power * bias, torch.float32)
    points, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    settings: dict[str, Any] = {"radius": radius, "bounds": bounds}
    results = [
        attacks.pgd(model, points, labels, objective="margin", starts=20, **settings),
        attacks.pgd(model, points, labels, objective="dlr", starts=20, **settings),
        attacks.apgd_targeted(model, points, labels, **settings),
        attacks.apgd_targeted(model, points, labels, objective="margin", **settings),
    ]
    if power >= 0:  # of nearly equal logits the log odds rise along a mean of all rivals
        mixed = ["uniform_norm"] * 20
        results += [
            attacks.pgd(model, points, labels, objective="log_odds", starts=20, **settings),
            attacks.pgd_conf(model, points, labels, initialisations=mixed, **settings),
            attacks.strengthened_pgd(model, points, labels, starts=1, **settings),
        ]
    for result in results:
        np.testing.assert_array_equal(result.success.numpy()[clear], worst[clear] > 0)
    if power == 6:  # cross entropy in float32 sees no gradient here
        blind = attacks.pgd(model, points, labels, starts=20, **settings)
        assert int(blind.success.sum()) < (worst > 0).sum()
