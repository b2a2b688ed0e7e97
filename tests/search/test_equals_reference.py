"""The fast search does what its slow twin does, field by field, and counts what it spends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_classifiers import convolutional, images, linear
from torch import Tensor

import hcnn_fast as hf

BASE: dict[str, Any] = {"steps": 4, "keep_points": True}
MCN = hf.SearchConfig.mcn(0.1, **BASE)
HCNN = hf.SearchConfig.hcnn(0.1, 0.2, **BASE)
NCN = hf.SearchConfig.ncn(0.1, 0.4, **BASE)
ENTROPY = hf.SearchConfig.entropy(0.1, **BASE)

CONFIGS = {
    "mcn": MCN,
    "mcn-constant": MCN.replace(schedule="constant"),
    "mcn-no-momentum": MCN.replace(momentum=0.0),
    "mcn-step-size": MCN.replace(step_size=0.02, momentum=0.9),
    "mcn-starts": MCN.replace(starts=3, seed=7),
    "mcn-likeliest": MCN.replace(labels=2),
    "mcn-bounds": MCN.replace(bounds=(-0.5, 1.25)),
    "mcn-large-radius": MCN.replace(radius=2.0),
    "mcn-no-points": MCN.replace(keep_points=False),
    "hcnn-linf": HCNN,
    "hcnn-l2": HCNN.replace(distance_norm="l2"),
    "hcnn-l1": HCNN.replace(distance_norm="l1", distance_weight=0.02),
    "hcnn-constant": HCNN.replace(schedule="constant"),
    "hcnn-no-momentum": HCNN.replace(momentum=0.0, distance_norm="l2"),
    "hcnn-starts": HCNN.replace(starts=2, labels=3),
    "ncn-linf": NCN,
    "ncn-l2": NCN.replace(distance_norm="l2"),
    "ncn-l1": NCN.replace(distance_norm="l1"),
    "ncn-infeasible": NCN.replace(confidence=0.999999),
    "ncn-starts": NCN.replace(starts=2, labels=2, schedule="constant"),
    "entropy-shannon": ENTROPY,
    "entropy-renyi": ENTROPY.replace(order=2.0, starts=2),
    "entropy-half": ENTROPY.replace(order=0.5, momentum=0.0),
    "entropy-infinite": ENTROPY.replace(order=float("inf"), schedule="constant"),
    "entropy-zero": ENTROPY.replace(order=0.0),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}  # results give values in float32

all_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def differing_rows(a: Tensor, b: Tensor, limit: float) -> Tensor:  # [...] -> [rows] bool
    return (a - b).abs().flatten(1).amax(1) > limit


@dtypes
@all_configs
def test_search_equals_the_reference(config: hf.SearchConfig, dtype: torch.dtype) -> None:
    model = convolutional(dtype=dtype)
    x = images(3, dtype=dtype)
    assert_equal_results(model, x, config)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_backend_and_chunks_change_nothing(backend: str, batch_size: int) -> None:
    for name in ("mcn-starts", "hcnn-starts", "ncn-starts", "entropy-renyi"):
        config = CONFIGS[name].replace(backend=backend, batch_size=batch_size)
        assert_equal_results(linear(dtype=torch.float64), images(2, dtype=torch.float64), config)


def assert_equal_results(model: torch.nn.Module, x: Tensor, config: hf.SearchConfig) -> None:
    fast = hf.search(model, x, config)
    slow = hf.reference.search(model, x, config)
    limit = TOLERANCE[x.dtype]
    torch.testing.assert_close(fast.value, slow.value, rtol=0, atol=limit)
    torch.testing.assert_close(fast.label_value, slow.label_value, rtol=0, atol=limit)
    for field in ("label", "prediction", "labels", "label_prediction"):
        got, expected = getattr(fast, field), getattr(slow, field)
        assert got.dtype == expected.dtype == torch.int64
        assert torch.equal(got, expected), field
    assert fast.steps.dtype == slow.steps.dtype == torch.int64
    assert bool((fast.steps <= slow.steps).all())  # a run at rest ends
    assert fast.forwards < slow.forwards
    assert fast.backwards <= slow.backwards
    torch.testing.assert_close(fast.confidence, slow.confidence, rtol=0, atol=limit)
    torch.testing.assert_close(fast.label_confidence, slow.label_confidence, rtol=0, atol=limit)
    # Points: in float64 they agree throughout. In float32 a gradient entry that is a sum of like
    # numbers may take the other sign, so single entries may differ; they are few.
    if x.dtype == torch.float64:
        exact = 1e-9 if config.objective == "ncn" else 1e-12
        torch.testing.assert_close(fast.point, slow.point, rtol=0, atol=exact)
        torch.testing.assert_close(fast.logits, slow.logits, rtol=0, atol=100 * exact)
    else:
        strays = ((fast.point - slow.point).abs() > 1e-4).double().mean()
        assert float(strays) <= 0.02
        torch.testing.assert_close(fast.logits, slow.logits, rtol=0, atol=1e-3)
    assert (fast.label_point is None) == (slow.label_point is None) == (not config.keep_points)
    if fast.label_point is not None and slow.label_point is not None:
        assert fast.label_point.shape == slow.label_point.shape
        strays = ((fast.label_point - slow.label_point).abs() > 1e-4).double().mean()
        assert float(strays) <= (0.02 if x.dtype == torch.float32 else 0.0)
    for field in ("point", "value", "confidence", "logits", "label_value", "label_confidence"):
        got, expected = getattr(fast, field), getattr(slow, field)
        assert got.dtype == expected.dtype, field
        assert got.shape == expected.shape, field


def test_a_long_search_reaches_what_the_reference_reaches() -> None:
    """Rounding may lead long runs apart; the attained objectives stay together."""
    model, x = convolutional(), images(2)
    for config in (
        MCN.replace(steps=25, labels=3),
        HCNN.replace(steps=25, labels=3),
        NCN.replace(steps=25, labels=3),
    ):
        fast = hf.search(model, x, config)
        slow = hf.reference.search(model, x, config)
        torch.testing.assert_close(fast.value, slow.value, rtol=0, atol=2e-4)
        assert torch.equal(fast.label, slow.label)


class Passes:
    """A classifier that counts the images of its forward and backward passes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self.count)
        logits: Tensor = self.model(x)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@pytest.mark.parametrize("name", ["mcn", "mcn-likeliest", "hcnn-starts", "ncn-l2", "entropy-renyi"])
@pytest.mark.parametrize("batch_size", [3, 1000])
def test_the_passes_reported_are_those_that_the_model_sees(name: str, batch_size: int) -> None:
    config, x = CONFIGS[name].replace(batch_size=batch_size), images(3)
    model = Passes(linear())
    result = hf.search(model, x, config)
    counted = 0 if config.labels else 1  # the classes, once
    assert (result.forwards + counted, result.backwards) == (model.forwards, model.backwards)
    assert int(result.steps.sum()) == result.backwards


def test_planning_takes_four_images_more() -> None:
    """One to learn the number of classes, three to learn what memory a batch takes."""
    model = Passes(linear())
    result = hf.search(model, images(3), MCN)
    assert model.forwards == result.forwards + 4
    assert model.backwards == result.backwards


def test_the_passes_are_what_the_specification_says() -> None:
    """K T gradients per image and run, each with a forward pass, and one for the last point.

    The first slope of a run from the image is that of its label there, known from the first pass;
    in small batches one forward pass serves all labels. The score is that of the best pass.
    """
    count, labels, starts, steps = 3, 5, 2, 4
    x, model = images(count), linear()
    for config, runs in ((MCN, 1), (HCNN, 2), (NCN, 2)):
        candidates = labels * starts
        for batch_size, looks in ((1000, labels), (3, 1)):
            result = hf.search(model, x, config.replace(starts=starts, batch_size=batch_size))
            assert bool((result.steps == candidates * steps * runs).all())
            assert result.backwards == count * candidates * steps * runs
            passes = looks + candidates * runs * (steps + 1) - labels
            assert result.forwards == count * passes
