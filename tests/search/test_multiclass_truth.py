"""Softmax regression: targeted maxima are convex programmes, worst cases lie at corners."""

from __future__ import annotations

import closed_forms as truth
import numpy as np
import pytest
import torch
from softmax_regression import (
    interval,
    most_probable,
    random_regression,
    worst_cross_entropy,
    worst_margin,
)

import hcnn_fast as hf
from hcnn_fast import attacks

SEEDS = range(5)
boxes = pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])


@boxes
@pytest.mark.parametrize("seed", SEEDS)
def test_mcn_attains_the_maximum_of_every_label(seed: int, box: bool) -> None:
    weight, bias, x, bounds = random_regression(seed, box=box, dimension=12)
    radius = 0.15
    config = hf.SearchConfig.mcn(radius, bounds=bounds, steps=100)
    result = hf.search(truth.classifier(weight, bias), torch.from_numpy(x), config)
    best = np.array(
        [
            [most_probable(weight, bias, row, radius, bounds, label) for label in range(4)]
            for row in x
        ]
    )
    got = result.label_value.double().numpy()
    assert (got <= best + 1e-6).all()
    np.testing.assert_allclose(got, best, rtol=0, atol=1e-4)
    top = np.sort(best, axis=1)
    clear = top[:, -1] - top[:, -2] > 2e-4
    np.testing.assert_array_equal(result.label.numpy()[clear], best.argmax(1)[clear])


def test_the_image_of_an_exact_winner_is_predicted_as_its_label() -> None:
    """Where a label's maximum is the largest of all, no other label can be likelier there."""
    for seed in range(10):
        weight, bias, x, bounds = random_regression(seed, box=True, dimension=6, images=16)
        config = hf.SearchConfig.mcn(0.1, bounds=bounds, steps=100)
        result = hf.search(truth.classifier(weight, bias), torch.from_numpy(x), config)
        values = result.label_value.sort(dim=1).values
        clear = values[:, -1] - values[:, -2] > 1e-3
        assert bool((result.prediction == result.label)[clear].all())


# The worst cases of an attack.


def strongest(
    weight: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    bounds: tuple[float, float],
    radius: float,
    objective: str,
    seeds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The largest objective [N] of single runs, and whether any of them succeeded [N]."""
    model = truth.classifier(weight, bias)
    value = np.full(len(x), -np.inf)
    success = np.zeros(len(x), dtype=bool)
    for seed in range(seeds):
        result = attacks.pgd(
            model,
            torch.from_numpy(x),
            torch.from_numpy(y),
            radius=radius,
            objective=objective,
            bounds=bounds,
            seed=seed,
        )
        low, high = interval(x, radius, bounds)
        assert ((result.point.numpy() >= low) & (result.point.numpy() <= high)).all()
        value = np.maximum(value, result.value.double().numpy())
        success |= result.success.numpy()
    return value, success


@boxes
@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
@pytest.mark.parametrize("dimension", [1, 4, 10])
def test_pgd_attains_the_worst_case(dimension: int, objective: str, box: bool) -> None:
    worst = worst_cross_entropy if objective == "cross_entropy" else worst_margin
    radius = 0.2
    for seed in SEEDS:
        weight, bias, x, bounds = random_regression(seed, box=box, dimension=dimension)
        y = (x @ weight.T + bias).argmax(1)
        low, high = interval(x, radius, bounds)
        expected = np.array(
            [worst(weight, bias, low[n], high[n], int(label)) for n, label in enumerate(y)]
        )
        value, success = strongest(weight, bias, x, y, bounds, radius, objective, seeds=60)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-4)
        # Some point is misclassified if and only if the worst margin is not negative.
        margin = np.array(
            [worst_margin(weight, bias, low[n], high[n], int(label)) for n, label in enumerate(y)]
        )
        clear = np.abs(margin) > 1e-6
        if objective == "margin":
            np.testing.assert_array_equal(success[clear], margin[clear] > 0)
        assert not success[margin < -1e-6].any()


def test_a_restart_that_succeeds_is_preferred_to_a_stronger_one_that_fails() -> None:
    weight, bias, x, bounds = random_regression(1, box=True, dimension=6, images=32)
    y = (x @ weight.T + bias).argmax(1)
    model = truth.classifier(weight, bias)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    result = attacks.pgd(model, images, labels, radius=0.1, starts=5, steps=3, bounds=bounds)
    prediction = model(result.point).argmax(1)
    assert torch.equal(result.success, prediction != labels)
    assert 0 < int(result.success.sum()) < len(x)
    again = attacks.pgd(model, images, labels, radius=0.1, starts=1, steps=3, bounds=bounds)
    assert bool((result.success >= again.success).all())
    assert bool((result.attempt[again.success] == 0).all())
    lost = ~result.success
    assert bool((result.value[lost] >= again.value[lost]).all())
