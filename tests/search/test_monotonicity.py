"""What must rise, fall or stay when the problem changes; and what entropy says of confidence."""

from __future__ import annotations

import itertools
import math

import closed_forms as truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast import ops

ORDERS = (0.0, 0.5, 0.9, 1.0, 2.0, 5.0, 20.0, math.inf)
backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


def smooth_network(seed: int, dimension: int = 6, classes: int = 4) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(dimension, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.8)
    return model.eval()


def images(seed: int, count: int = 8, dimension: int = 6) -> Tensor:  # [count, dimension]
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.rand(count, dimension, generator=generator, dtype=torch.float64)


# T-A6


@pytest.mark.parametrize("seed", range(4))
def test_every_label_is_at_least_as_confident_in_a_larger_ball(seed: int) -> None:
    model, x = smooth_network(seed), images(seed)
    before = torch.softmax(model(x), 1).detach().float()
    for radius in (0.01, 0.03, 0.1, 0.3):
        config = hf.SearchConfig.mcn(radius, steps=50, starts=3)
        value = hf.search(model, x, config).label_value
        assert bool((value >= before - 1e-3).all())  # what two inexact searches may differ by
        before = value


def test_every_label_of_a_linear_classifier_gains_strictly_with_the_radius() -> None:
    for seed in range(4):
        case = truth.binary_case(seed, box=False)
        model, x = truth.classifier(case.weight, case.bias), torch.from_numpy(case.x)
        values = [
            hf.search(
                model, x, hf.SearchConfig.mcn(case.radius * share, steps=4, bounds=case.bounds)
            ).label_value
            for share in (0.25, 0.5, 1.0)
        ]
        assert bool((values[0] < values[1]).all())
        assert bool((values[1] < values[2]).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_value_of_hcnn_falls_as_distance_weighs_more(norm: str) -> None:
    for seed in range(2):
        model, x = smooth_network(seed), images(seed)
        before = hf.search(model, x, hf.SearchConfig.mcn(0.2, steps=50)).label_value
        for weight in (0.0, 0.05, 0.2, 0.5, 2.0):
            config = hf.SearchConfig.hcnn(0.2, weight, norm, steps=50)
            value = hf.search(model, x, config).label_value
            assert bool((value <= before + 1e-3).all())
            before = value
        own = torch.softmax(model(x), 1).detach().float()
        assert bool((before >= own).all())


@pytest.mark.parametrize("seed", range(4))
def test_hcnn_without_weight_is_mcn(seed: int) -> None:
    model, x = smooth_network(seed), images(seed)
    hcnn = hf.search(model, x, hf.SearchConfig.hcnn(0.1, 0.0))
    mcn = hf.search(model, x, hf.SearchConfig.mcn(0.1))
    assert torch.equal(hcnn.point, mcn.point)
    assert torch.equal(hcnn.label_value, mcn.label_value)
    assert torch.equal(hcnn.label, mcn.label)


@pytest.mark.parametrize("seed", range(4))
def test_a_tiny_ball_leaves_the_base_model(seed: int) -> None:
    model, x = smooth_network(seed), images(seed)
    logits = model(x).detach()
    for config in (
        hf.SearchConfig.mcn(1e-9),
        hf.SearchConfig.hcnn(1e-9, 1.0),
        hf.SearchConfig.entropy(1e-9),
    ):
        result = hf.search(model, x, config)
        torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-6)
        assert torch.equal(result.label, logits.argmax(1))
        assert torch.equal(result.prediction, logits.argmax(1))


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_entropy_descent_and_mcn_agree_on_a_binary_linear_classifier(order: float) -> None:
    for seed in range(6):
        case = truth.binary_case(seed, box=False)  # bounds could make the other label better
        model, x = truth.classifier(case.weight, case.bias), torch.from_numpy(case.x)
        keywords = {"steps": 5, "bounds": case.bounds}
        entropy = hf.search(model, x, hf.SearchConfig.entropy(case.radius, order, **keywords))
        mcn = hf.search(model, x, hf.SearchConfig.mcn(case.radius, **keywords))
        torch.testing.assert_close(entropy.point, mcn.point, rtol=0, atol=1e-12)
        assert torch.equal(entropy.label, mcn.label)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("starts", [1, 3])
def test_the_entropy_found_is_at_most_that_of_the_image(order: float, starts: int) -> None:
    model, x = smooth_network(0), images(0)
    config = hf.SearchConfig.entropy(0.1, order, steps=10, starts=starts)
    result = hf.search(model, x, config)
    clean = torch.softmax(model(x), 1).detach().numpy()
    own = -torch.tensor([renyi(row, order) for row in clean], dtype=torch.float64)
    reached = torch.softmax(result.logits, 1).numpy()
    there = -torch.tensor([renyi(row, order) for row in reached], dtype=torch.float64)
    torch.testing.assert_close(result.value.double(), there, rtol=1e-6, atol=1e-6)
    assert bool((result.value >= own - 1e-6).all())
    if order > 0.0:  # the number of possible classes is flat
        assert bool((result.value > own).all())


# T-A8: facts on entropies of probabilities, written here from their definition.


def renyi(f: np.ndarray, order: float) -> float:
    """H_a(F) in extended precision; Shannon for order 1."""
    f = f[f > 0].astype(np.longdouble)
    if order == 1.0:
        return float(-(f * np.log(f)).sum())
    if order == 0.0:
        return math.log(len(f))
    if order == math.inf:
        return float(-np.log(f.max()))
    return float(np.log((f**order).sum()) / (1 - order))


def entropy(
    logits: Tensor,  # [B, C]
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B] H, [B, C] its gradient
    value, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    ops.label_objective(
        logits,
        labels,
        "negative_entropy",
        order=order,
        value=value,
        gradient=gradient,
        backend=backend,
    )
    return -value, -gradient


def logit_rows(seed: int, rows: int = 40, classes: int = 6) -> Tensor:  # [rows, classes]
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1.3, rows, dtype=torch.float64)[:, None]
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


@backends
@pytest.mark.parametrize("order", ORDERS)
def test_the_entropy_is_that_of_the_definition(order: float, backend: str) -> None:
    logits = logit_rows(0)
    got, _ = entropy(logits, order, backend)
    expected = [renyi(row, order) for row in torch.softmax(logits, 1).numpy()]
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("order", ORDERS)
def test_a_one_hot_row_has_no_entropy_and_a_uniform_row_has_all(order: float, backend: str) -> None:
    rows = torch.zeros(2, 5, dtype=torch.float64)
    rows[1, 3] = 5000.0
    got, gradient = entropy(rows, order, backend)
    assert float(got[0]) == pytest.approx(math.log(5), abs=1e-12)
    assert float(got[1]) == pytest.approx(0.0, abs=1e-12)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient[1], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    if order != math.inf:  # whose maximum has no gradient where all are equal
        torch.testing.assert_close(
            gradient[0], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12
        )


@backends
@pytest.mark.parametrize("offset", [1e-6, -1e-6])
def test_renyi_entropy_is_continuous_at_shannon(offset: float, backend: str) -> None:
    logits = logit_rows(1)
    shannon, slope = entropy(logits, 1.0, backend)
    near, near_slope = entropy(logits, 1.0 + offset, backend)
    torch.testing.assert_close(near, shannon, rtol=0, atol=2e-5)
    torch.testing.assert_close(near_slope, slope, rtol=0, atol=1e-4)
    exact = [renyi(row, 1.0 + offset) for row in torch.softmax(logits, 1).numpy()]
    np.testing.assert_allclose(near, exact, rtol=0, atol=1e-8)


@backends
def test_large_orders_approach_the_largest_probability_and_small_ones_the_count(
    backend: str,
) -> None:
    logits = logit_rows(2)
    top = -torch.log_softmax(logits, 1).amax(1)
    last, _ = entropy(logits, math.inf, backend)
    torch.testing.assert_close(last, top, rtol=1e-12, atol=1e-12)
    large, _ = entropy(logits, 1e6, backend)
    torch.testing.assert_close(large, top, rtol=1e-5, atol=1e-5)
    small, _ = entropy(logit_rows(2)[:20], 1e-9, backend)  # rows whose classes are all possible
    torch.testing.assert_close(small, torch.full_like(small, math.log(6)), rtol=0, atol=1e-6)


@backends
@pytest.mark.parametrize("order", [o for o in ORDERS if o not in (0.0, math.inf)])
def test_the_gradient_is_that_of_automatic_differentiation(order: float, backend: str) -> None:
    logits = logit_rows(3)
    leaf = logits.clone().requires_grad_()
    log_f = torch.log_softmax(leaf, 1)
    if order == 1.0:
        expected = -(log_f.exp() * log_f).sum(1)
    else:
        expected = torch.logsumexp(order * log_f, 1) / (1.0 - order)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    got, gradient = entropy(logits, order, backend)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-10)


rows = st.lists(st.floats(-30.0, 30.0), min_size=2, max_size=8)


@settings(max_examples=60)
@given(rows, st.sampled_from(["cpu", "reference"]))
def test_entropy_falls_with_the_order_and_certifies_confidence(
    row: list[float], backend: str
) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    confidence = float(torch.softmax(logits, 1).amax())
    of = {order: float(entropy(logits, order, backend)[0]) for order in ORDERS}
    values = list(of.values())
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))
    lowest = of[math.inf]
    for order, value in of.items():
        assert confidence >= math.exp(-value) - 1e-9  # H_a <= h implies c >= e^-h
        if 1.0 < order < math.inf:
            assert lowest - 1e-9 <= value <= order / (order - 1.0) * lowest + 1e-9
