"""Objectives of the logits: by hand, against float64 by definition, and against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_backends import every_backend
from torch import Tensor

from hcnn_fast import ops

LABEL_KINDS = ("probability", "log_probability", "cross_entropy", "log_odds", "margin")
ORDERS = (0.0, 0.5, 1.0, 1.5, 2.0, 7.0, math.inf)
CASES = [(kind, 1.0) for kind in LABEL_KINDS] + [("negative_entropy", order) for order in ORDERS]
all_cases = pytest.mark.parametrize(
    ("kind", "order"), CASES, ids=[f"{kind}-{order:g}" for kind, order in CASES]
)


INTERPRETED_ROWS = {2000: 40, 1500: 30, 60: 4, 500: 25, 300: 105}  # of triton, a row at a time


def rows_for(backend: str, rows: int) -> int:
    """Rows of a test that would take long in Triton's interpreter."""
    return INTERPRETED_ROWS[rows] if backend == "triton" else rows


def evaluate(
    logits: Tensor,  # [B, C]
    labels: Tensor,  # [B]
    kind: str,
    order: float,
    backend: str,
) -> tuple[Tensor, Tensor]:  # [B], [B, C]
    """Value and gradient, on the CPU; what is written begins as a number that must not stay."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    value = torch.full((len(logits),), 12345.0, dtype=dtype, device=logits.device)
    gradient = torch.full_like(logits, 12345.0)
    ops.label_objective(
        logits, labels, kind, order=order, value=value, gradient=gradient, backend=backend
    )
    return value.cpu(), gradient.cpu()


def definition(
    logits: np.ndarray,  # [B, C]
    labels: np.ndarray,  # [B]
    kind: str,
    order: float,
) -> tuple[np.ndarray, np.ndarray]:  # [B], [B, C]
    """The formulas of the paper and their derivatives by hand, in extended precision."""
    z = logits.astype(np.longdouble)

    def one_hot(entry: np.ndarray) -> np.ndarray:
        return np.arange(z.shape[1]) == entry[:, None]

    chosen = one_hot(labels)
    if kind == "negative_entropy":
        e = np.exp(z - z.max(1, keepdims=True))
        f = e / e.sum(1, keepdims=True)
        log_f = z - z.max(1, keepdims=True) - np.log(e.sum(1, keepdims=True))
        if order == 0.0:
            return -np.log((f > 0).sum(1).astype(np.longdouble)), np.zeros_like(f)
        if order == math.inf:
            return log_f.max(1), one_hot(z.argmax(1)) - f
        if order == 1.0:
            value = (f * log_f).sum(1)
            return value, f * (log_f - value[:, None])
        power = np.exp(order * (z - z.max(1, keepdims=True)))
        total = power.sum(1)
        value = (np.log(total) - order * np.log(e.sum(1))) / (order - 1)
        return value, order / (order - 1) * (power / total[:, None] - f)
    own = z[chosen]
    others = np.where(chosen, -np.inf, z)
    top = others.max(1)
    if kind == "margin":
        return own - top, chosen.astype(np.longdouble) - one_hot(others.argmax(1))
    e = np.exp(others - top[:, None])
    direction = chosen - e / e.sum(1, keepdims=True)
    odds = own - top - np.log(e.sum(1))
    p, q = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))  # F_l and 1 - F_l
    log_p = np.minimum(odds, 0) - np.log1p(np.exp(-np.abs(odds)))
    value, factor = {
        "log_odds": (odds, np.ones_like(odds)),
        "probability": (p, p * q),
        "log_probability": (log_p, q),
        "cross_entropy": (-log_p, -q),
    }[kind]
    return value, factor[:, None] * direction


def random_rows(
    rows: int, classes: int, scale: float, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:  # [rows, classes], [rows]
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (rows,), generator=generator)


def absolute_limit(kind: str, logits: Tensor) -> float:
    """What float64 cannot resolve: the entropy of a certain row is a difference of like numbers."""
    if kind != "negative_entropy":
        return 1e-300
    return 1e-15 * max(10.0, float(logits.abs().max()))


def assert_close_to_definition(
    logits: Tensor, labels: Tensor, kind: str, order: float, backend: str, device: torch.device
) -> None:
    """Within 2 units in the last place in 99.9 % of the rows, within 1e-6 in all of them."""
    got = evaluate(logits.to(device), labels.to(device), kind, order, backend)
    true = definition(logits.double().numpy(), labels.numpy(), kind, order)
    for name, found, exact in zip(("value", "gradient"), got, true, strict=True):
        rounded = exact.astype(np.float32)
        error = np.abs(found.double().numpy() - exact).reshape(len(exact), -1)
        size = np.abs(exact).reshape(len(exact), -1)
        unit = np.spacing(np.maximum(np.abs(rounded), np.finfo(np.float32).tiny))
        unit = unit.astype(np.float64).reshape(len(exact), -1)
        floor = absolute_limit(kind, logits)
        assert bool((error <= np.maximum(1e-6 * size, unit) + floor).all()), name
        near = (error <= 2.0 * unit + floor).all(1)
        assert near.mean() >= 0.999, f"{name}: only {near.mean():.2%} of the rows"


@every_backend
@all_cases
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
@pytest.mark.parametrize(("rows", "classes"), [(2000, 2), (1500, 10), (60, 1000)])
def test_random_rows_follow_the_definition(
    backend: str,
    device: torch.device,
    kind: str,
    order: float,
    scale: float,
    rows: int,
    classes: int,
) -> None:
    logits, labels = random_rows(rows_for(backend, rows), classes, scale)
    assert_close_to_definition(logits, labels, kind, order, backend, device)


@every_backend
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(CASES),
    rows=st.integers(0, 9),
    classes=st.integers(2, 40),
    scale=st.floats(0.0, 60.0),
    shift=st.sampled_from([0.0, -7.0, 1e4, -1e8, 1e30]),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_rows_follow_the_definition(
    backend: str,
    device: torch.device,
    case: tuple[str, float],
    rows: int,
    classes: int,
    scale: float,
    shift: float,
    ties: bool,
    seed: int,
) -> None:
    kind, order = case
    logits, labels = random_rows(rows, classes, scale, seed=seed)
    logits = (logits.round() if ties else logits) + shift
    if rows:
        assert_close_to_definition(logits, labels, kind, order, backend, device)
    else:
        value, gradient = evaluate(logits.to(device), labels.to(device), kind, order, backend)
        assert value.shape == (0,)
        assert gradient.shape == (0, classes)


@every_backend
@all_cases
def test_float64_rows_keep_float64_accuracy(
    backend: str, device: torch.device, kind: str, order: float
) -> None:
    logits, labels = random_rows(rows_for(backend, 500), 10, 4.0, torch.float64)
    got = evaluate(logits.to(device), labels.to(device), kind, order, backend)
    for found, exact in zip(
        got, definition(logits.numpy(), labels.numpy(), kind, order), strict=True
    ):
        assert found.dtype == torch.float64
        np.testing.assert_allclose(
            found.numpy(), exact.astype(np.float64), rtol=1e-12, atol=absolute_limit(kind, logits)
        )


@every_backend
@all_cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_a_float32_value_and_a_rounded_gradient(
    backend: str, device: torch.device, kind: str, order: float, dtype: torch.dtype
) -> None:
    logits, labels = random_rows(rows_for(backend, 500), 11, 4.0, dtype)
    value, gradient = evaluate(logits.to(device), labels.to(device), kind, order, backend)
    exact = definition(logits.double().numpy(), labels.numpy(), kind, order)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(
        value.numpy(), exact[0].astype(np.float64), rtol=1e-6, atol=absolute_limit(kind, logits)
    )
    assert gradient.dtype == dtype
    half_unit = torch.finfo(dtype).eps / 2 * 1.001
    np.testing.assert_allclose(
        gradient.double().numpy(),
        exact[1].astype(np.float64),
        rtol=half_unit,
        atol=torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / 2 + 1e-15,
    )


@every_backend
@all_cases
def test_the_gradient_is_that_of_the_value(
    backend: str, device: torch.device, kind: str, order: float
) -> None:
    logits, labels = random_rows(50, 7, 2.0, torch.float64)
    z = logits.clone().requires_grad_()
    log_f = torch.log_softmax(z, 1)
    own = log_f.gather(1, labels[:, None])[:, 0]
    rivals = z.masked_fill(torch.nn.functional.one_hot(labels, 7).bool(), -math.inf)
    if kind == "negative_entropy" and order == 1.0:
        value = (log_f.exp() * log_f).sum(1)
    elif kind == "negative_entropy" and order == 0.0:
        value = -math.log(7) + 0.0 * log_f.sum(1)
    elif kind == "negative_entropy" and order == math.inf:
        value = log_f.amax(1)
    elif kind == "negative_entropy":
        value = torch.logsumexp(order * log_f, 1) / (order - 1.0)
    else:
        value = {
            "probability": own.exp(),
            "log_probability": own,
            "cross_entropy": -own,
            "log_odds": own - torch.log1p(-own.exp()),
            "margin": own - log_f.gather(1, rivals.argmax(1)[:, None])[:, 0],
        }[kind]
    (slope,) = torch.autograd.grad(value.sum(), z)
    got = evaluate(logits.to(device), labels.to(device), kind, order, backend)
    torch.testing.assert_close(got[0], value.detach(), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(got[1], slope, rtol=1e-9, atol=1e-14)


E, T, F = 1 / 8, 2 / 8, 5 / 8  # the probabilities of the logits log 1, log 2, log 5
BY_HAND = {
    ("probability", 1.0): (F, [-F * E, -F * T, F * (1 - F)]),
    ("log_probability", 1.0): (math.log(F), [-E, -T, 1 - F]),
    ("cross_entropy", 1.0): (-math.log(F), [E, T, F - 1]),
    ("log_odds", 1.0): (math.log(5 / 3), [-1 / 3, -2 / 3, 1.0]),
    ("margin", 1.0): (math.log(5 / 2), [0.0, -1.0, 1.0]),
    ("negative_entropy", 0.0): (-math.log(3), [0.0, 0.0, 0.0]),
    ("negative_entropy", 2.0): (
        math.log(30 / 64),
        [2 * (1 / 30 - E), 2 * (4 / 30 - T), 2 * (25 / 30 - F)],
    ),
    ("negative_entropy", math.inf): (math.log(F), [-E, -T, 1 - F]),
}


@every_backend
@pytest.mark.parametrize(("kind", "order"), BY_HAND, ids=str)
def test_three_classes_by_hand(backend: str, device: torch.device, kind: str, order: float) -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64, device=device).log()
    labels = torch.tensor([2], device=device)
    value, gradient = evaluate(logits, labels, kind, order, backend)
    expected_value, expected_gradient = BY_HAND[kind, order]
    assert value.item() == pytest.approx(expected_value, rel=1e-14)
    assert gradient[0].tolist() == pytest.approx(expected_gradient, rel=1e-13, abs=1e-16)


@every_backend
@pytest.mark.parametrize("order", ORDERS)
def test_the_entropy_of_a_uniform_row_is_log_c_for_every_order(
    backend: str, device: torch.device, order: float
) -> None:
    logits, labels = torch.full((1, 6), -3.0, device=device), torch.tensor([0], device=device)
    value, gradient = evaluate(logits, labels, "negative_entropy", order, backend)
    assert value.item() == pytest.approx(-math.log(6), rel=1e-7)
    if order != math.inf:
        assert gradient.abs().max().item() < 1e-15


@every_backend
@all_cases
def test_one_class_is_certain_and_nothing_changes_it(
    backend: str, device: torch.device, kind: str, order: float
) -> None:
    logits = torch.tensor([[-7.0], [0.0], [1e30]], device=device)
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    value, gradient = evaluate(logits, labels, kind, order, backend)
    certain = {"probability": 1.0, "log_odds": math.inf, "margin": math.inf}.get(kind, 0.0)
    assert value.tolist() == [certain] * 3
    assert gradient.tolist() == [[0.0]] * 3


@every_backend
@all_cases
def test_imagenet_21k_has_that_many_classes(
    backend: str, device: torch.device, kind: str, order: float
) -> None:
    logits, labels = random_rows(3, 21841, 3.0)
    assert_close_to_definition(logits, labels, kind, order, backend, device)


@every_backend
def test_the_first_of_equal_rivals_takes_the_gradient_of_the_margin(
    backend: str, device: torch.device
) -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 3.0], [3.0, 3.0, 3.0, 3.0]], device=device)
    labels = torch.tensor([2, 0], device=device)
    value, gradient = evaluate(logits, labels, "margin", 1.0, backend)
    assert value.tolist() == [-3.0, 0.0]
    assert gradient.tolist() == [[0.0, -1.0, 1.0, 0.0], [1.0, -1.0, 0.0, 0.0]]


@every_backend
def test_the_first_of_equal_maxima_takes_the_gradient_of_the_entropy_of_infinite_order(
    backend: str, device: torch.device
) -> None:
    logits = torch.tensor([[0.0, 4.0, 4.0]], device=device)
    _, gradient = evaluate(
        logits, torch.tensor([0], device=device), "negative_entropy", math.inf, backend
    )
    assert gradient[0, 1] > 0.4
    assert gradient[0, 2] < -0.4


@every_backend
@pytest.mark.parametrize("gap", [50.0, 200.0, 1e4, 1e30])
def test_a_certain_row_keeps_a_direction_in_log_odds(
    backend: str, device: torch.device, gap: float
) -> None:
    logits = torch.tensor([[gap, 0.0, 0.0], [-gap, 0.0, 0.0]], device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    value, gradient = evaluate(logits, labels, "log_odds", 1.0, backend)
    assert gradient.tolist() == [[1.0, -0.5, -0.5]] * 2
    assert value.tolist() == pytest.approx([gap - math.log(2), -gap - math.log(2)], rel=1e-6)


@every_backend
def test_a_hopeless_label_keeps_a_direction_in_log_probability(
    backend: str, device: torch.device
) -> None:
    logits = torch.tensor([[-300.0, 0.0]], device=device)
    labels = torch.tensor([0], device=device)
    value, gradient = evaluate(logits, labels, "log_probability", 1.0, backend)
    assert value.item() == -300.0
    assert gradient.tolist() == [[1.0, -1.0]]
    assert evaluate(logits, labels, "probability", 1.0, backend)[0].item() == 0.0


@every_backend
@all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_logit_that_is_not_a_number_makes_the_value_nan(
    backend: str, device: torch.device, kind: str, order: float, dtype: torch.dtype
) -> None:
    nan = math.nan
    logits = torch.tensor([[nan, 1.0, 2.0], [1.0, nan, 2.0], [nan, nan, nan]], dtype=dtype)
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    value, _ = evaluate(logits.to(device), labels, kind, order, backend)
    assert value.isnan().all(), value  # and so is never the best


@every_backend
@all_cases
def test_a_row_does_not_depend_on_its_neighbours(
    backend: str, device: torch.device, kind: str, order: float
) -> None:
    logits, labels = random_rows(rows_for(backend, 300), 33, 5.0)
    logits, labels = logits.to(device), labels.to(device)
    value, gradient = evaluate(logits, labels, kind, order, backend)
    part = slice(101, 104)
    alone = evaluate(logits[part].clone(), labels[part].clone(), kind, order, backend)
    assert torch.equal(alone[0], value[part])
    assert torch.equal(alone[1], gradient[part])


@every_backend
def test_an_unknown_kind_is_refused(backend: str, device: torch.device) -> None:
    logits, labels = random_rows(2, 3, 1.0)
    with pytest.raises((RuntimeError, ValueError), match="kind is 'confidence', expected"):
        evaluate(logits.to(device), labels.to(device), "confidence", 1.0, backend)
