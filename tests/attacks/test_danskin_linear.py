"""danskin_pgd on linear classifiers, whose defended worst cases formulas and solvers know."""

from __future__ import annotations

import itertools
from typing import Any

import closed_forms as truth
import numpy as np
import pytest
import torch
from softmax_regression import interval, most_probable, random_regression

import hcnn_fast as hf
from hcnn_fast.attacks import danskin_pgd, pgd, value_margin
from hcnn_fast.attacks.defended import Aim
from hcnn_fast.attacks.runs import posed
from hcnn_fast.attacks.value_hill import ValueHill

boxes = pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])


def log_odds(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)


def binary_margin(
    case: truth.BinaryCase, reach: float, y: np.ndarray, point: np.ndarray
) -> np.ndarray:
    """g = logit v_other - logit v_y [..., N, D] -> [..., N, D], by entry, without the constant.

    logit v_1 = Z + sum_i max(w_i u_i, w_i l_i), logit v_0 = -Z - sum_i min(w_i u_i, w_i l_i), with
    the room u_i, l_i that search radius and bounds leave (T-A1): a sum over the entries of x'.
    """
    up = np.minimum(reach, case.bounds[1] - point)
    down = np.maximum(-reach, case.bounds[0] - point)
    w = case.weight
    gain = np.maximum(w * up, w * down) + np.minimum(w * up, w * down)
    return np.where(y[:, None] == 0, 1.0, -1.0) * (2 * w * point + gain)


@boxes
def test_a_defended_binary_model_is_lost_exactly_to_the_closed_form(box: bool) -> None:
    lost = 0
    for seed in range(8):
        case = truth.binary_case(seed, box=box, images=30, reach=3.0)
        model, x = truth.classifier(case.weight, case.bias), torch.from_numpy(case.x)
        y = (case.odds[:, 1] > 0).astype(np.int64)
        search = 0.7 * case.radius
        config = hf.SearchConfig.mcn(search, bounds=case.bounds)
        defense = hf.Defense(model, config)
        result = danskin_pgd(defense, x, torch.from_numpy(y), radius=case.radius, starts=1)
        low, high = interval(case.x, case.radius, case.bounds)
        # g is piecewise linear in every entry: its largest value is at an end or at a kink
        kinks = [case.bounds[0] + search, case.bounds[1] - search]
        places = np.stack([low, high, *(np.clip(k, low, high) for k in kinks)])
        best = binary_margin(case, search, y, places).max(0).sum(1)
        best += 2 * case.bias * np.where(y == 0, 1.0, -1.0)
        np.testing.assert_allclose(result.value.numpy(), best, rtol=1e-6, atol=1e-4)
        clear = np.abs(best) > 1e-5
        np.testing.assert_array_equal(result.success.numpy()[clear], best[clear] > 0)
        assert ((result.point.numpy() >= low) & (result.point.numpy() <= high)).all()
        if not box:  # the search changes no prediction: the attack is as strong as on the base
            base = pgd(model, x, torch.from_numpy(y), radius=case.radius, bounds=case.bounds)
            np.testing.assert_array_equal(base.success.numpy()[clear], best[clear] > 0)
        lost += int(result.success.sum())
    assert 20 < lost < 220, f"{lost} of 240 lost"


def exact_margin(case: tuple[Any, ...], reach: float, y: int, point: np.ndarray) -> float:
    """g at a point, every value by a convex programme."""
    weight, bias, bounds = case
    height = log_odds(
        np.array([most_probable(weight, bias, point, reach, bounds, k) for k in range(len(bias))])
    )
    return float(np.delete(height, y).max() - height[y])


@boxes
@pytest.mark.parametrize("dimension", [1, 2, 3, 6])
def test_no_corner_of_the_ball_is_worse_for_defended_softmax_regression(
    dimension: int, box: bool
) -> None:
    """All corners, and for few entries all points of three levels each, by convex programmes."""
    radius, reach, reached, tried = 0.12, 0.08, 0, 0
    levels = (-1.0, 1.0) if dimension > 3 else (-1.0, 0.0, 1.0)
    for seed in range(2 if dimension == 6 else 4):
        weight, bias, x, bounds = random_regression(
            seed, box=box, dimension=dimension, classes=3, images=2
        )
        y = (x @ weight.T + bias).argmax(1)
        config = hf.SearchConfig.mcn(reach, bounds=bounds, steps=60)
        result = danskin_pgd(
            hf.Defense(truth.classifier(weight, bias), config),
            torch.from_numpy(x),
            torch.from_numpy(y),
            radius=radius,
            steps=30,
        )
        low, high = interval(x, radius, bounds)
        for n, label in enumerate(y.tolist()):
            case = (weight, bias, bounds)
            # what the attack says of its point is so
            found = exact_margin(case, reach, label, result.point[n].numpy())
            assert float(result.value[n]) == pytest.approx(found, abs=2e-3)
            if abs(found) > 2e-3:
                assert bool(result.success[n]) == (found > 0)
            corners = itertools.product(levels, repeat=dimension)
            best = max(
                exact_margin(
                    case, reach, label, np.clip(x[n] + radius * np.array(s), low[n], high[n])
                )
                for s in corners
            )
            reached += found >= best - 1e-3
            tried += 1
    assert reached == tried, f"{reached} of {tried} reach the worst of all these points"


@boxes
def test_the_slope_is_that_of_the_convex_programmes(box: bool) -> None:
    """T-A9: differences of values by another solver, the bounds active or not."""
    reach, width, compared = 0.1, 2e-3, 0
    for seed in range(4):
        weight, bias, x, bounds = random_regression(seed, box=box, dimension=3, classes=3, images=3)
        y = (x @ weight.T + bias).argmax(1)
        inside = np.clip(x, bounds[0] + 2 * width, bounds[1] - 2 * width)
        config = hf.SearchConfig.mcn(reach, bounds=bounds, steps=300)
        defense = hf.Defense(truth.classifier(weight, bias), config)
        points, labels = torch.from_numpy(inside), torch.from_numpy(y)
        outer = hf.SearchConfig.mcn(0.1, bounds=bounds)
        with posed(defense.model, points, labels, outer) as problem:
            runs = problem.every_run(labels[:, None], 1, slice(None))
            aim = Aim.at(defense, "error")
            hill = ValueHill(problem, runs, config, aim, steps=300, any_label=True)
            value, gradient = hill.slope(points)
        for n, label in enumerate(y.tolist()):
            case = (weight, bias, bounds)
            assert float(value[n]) == pytest.approx(
                exact_margin(case, reach, label, inside[n]), abs=1e-3
            )
            for i, step in enumerate(width * np.eye(3)):
                ahead, behind = (
                    exact_margin(case, reach, label, inside[n] + s) for s in (step, -step)
                )
                middle = exact_margin(case, reach, label, inside[n])
                if abs(ahead + behind - 2 * middle) > 2e-3 * np.abs(weight).max() * width * 10:
                    continue  # a kink: another label, or a bound that begins to hold
                slope = (ahead - behind) / (2 * width)
                assert float(gradient[n, i]) == pytest.approx(
                    slope, abs=0.02 * np.abs(weight).max()
                )
                compared += 1
    assert compared >= 24


def test_a_vanishing_search_leaves_the_attack_of_the_base() -> None:
    lost = 0
    for seed in range(5):
        weight, bias, x, bounds = random_regression(
            seed, box=True, dimension=12, classes=5, images=20
        )
        model, points = truth.classifier(weight, bias), torch.from_numpy(x)
        y = model(points).argmax(1)
        defense = hf.Defense(model, hf.SearchConfig.mcn(1e-9, bounds=bounds, steps=3))
        through = danskin_pgd(defense, points, y, radius=0.06, steps=40, inner_steps=1, starts=4)
        base = pgd(
            model, points, y, radius=0.06, objective="margin", steps=40, starts=30, bounds=bounds
        )
        assert torch.equal(through.success, base.success)
        logits = model(through.point).detach()
        odds = torch.stack(
            [
                logits[:, k] - logits[:, [j for j in range(5) if j != k]].logsumexp(1)
                for k in range(5)
            ],
            1,
        )
        own = odds.gather(1, y[:, None])[:, 0]
        margin = odds.scatter(1, y[:, None], -torch.inf).amax(1) - own
        torch.testing.assert_close(through.value.double(), margin, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            value_margin(defense)(through.point, y), margin, rtol=1e-6, atol=1e-6
        )
        lost += int(base.success.sum())
    assert 10 < lost < 90
