"""Softmax regression: targeted maxima are convex programmes, worst cases lie at corners."""

from __future__ import annotations

import itertools

import closed_forms as truth
import numpy as np
import pytest
import torch
from scipy import optimize, special

import hcnn_fast as hf
from hcnn_fast import attacks

SEEDS = range(5)
boxes = pytest.mark.parametrize("box", [False, True], ids=["ball", "box"])


def random_regression(
    seed: int, *, box: bool, dimension: int, classes: int = 4, images: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """weight [C, D], bias [C], x [N, D], bounds, which cut the balls where `box`."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, dimension)) * rng.uniform(1.0, 5.0)
    x = rng.uniform(0.0, 1.0, size=(images, dimension))
    if box:
        x = np.where(rng.uniform(size=x.shape) < 0.5, np.round(x), x)
    bias = rng.normal(size=classes) - weight @ x.mean(0)
    return weight, bias, x, (0.0, 1.0) if box else (-1.0, 2.0)


def interval(
    x: np.ndarray, radius: float, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(x - radius, bounds[0]), np.minimum(x + radius, bounds[1])


def most_probable(
    weight: np.ndarray,  # [C, D]
    bias: np.ndarray,  # [C]
    x: np.ndarray,  # [D]
    radius: float,
    bounds: tuple[float, float],
    label: int,
) -> float:
    """max F_l in the box: log F_l is concave, so L-BFGS-B finds it; a dual gap proves it."""
    low, high = interval(x, radius, bounds)

    def cost(z: np.ndarray) -> tuple[float, np.ndarray]:  # -log F_l
        logits = weight @ z + bias
        share = special.softmax(logits)
        return special.logsumexp(logits) - logits[label], share @ weight - weight[label]

    solved = optimize.minimize(
        cost,
        x,
        jac=True,
        bounds=list(zip(low, high, strict=True)),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10_000},
    )
    value, slope = cost(solved.x)
    gap = slope @ solved.x - np.where(slope > 0, low, high) @ slope  # bound on value - minimum
    assert gap <= 1e-6 * max(1.0, value)
    return float(np.exp(-value))


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


def worst_cross_entropy(
    weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray, label: int
) -> float:
    """max -log F_y over the box: convex, so at one of its 2^D corners."""
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))  # [2^D, D]
    logits = corners @ weight.T + bias
    return float((special.logsumexp(logits, axis=1) - logits[:, label]).max())


def worst_margin(
    weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray, label: int
) -> float:
    """max over k != y of max Z_k - Z_y over the box, each at a corner of its own."""
    best = []
    for rival in set(range(len(bias))) - {label}:
        slope = weight[rival] - weight[label]
        corner = np.where(slope > 0, high, low)
        best.append(slope @ corner + bias[rival] - bias[label])
    return float(max(best))


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
