"""The whole search on the shipped model, beside its reference and beside what users loop over."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

import hcnn_fast as hf
from hcnn_fast import data, models
from hcnn_fast.measurement.rivals import missing, torchattacks_loop

CLASSES = 10
RADIUS = 0.05
REFERENCE_LIMIT = 1e-4  # largest difference in value from the reference, on any image

CASES = [(1, 20), (64, 20), (256, 20)]
IDS = [f"cpu-fashion-N{n}-L10-S1-K{k}" for n, k in CASES]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return models.load("fashion-adversarial").eval()


@pytest.fixture(scope="module")
def images() -> Tensor:  # [N, 1, 28, 28]
    return data.load("fashion-mnist-sample", "test").scaled()


def _record(benchmark: Any, images: int, steps: int) -> None:
    units = images * CLASSES * steps
    benchmark.extra_info["microseconds_per_gradient_step"] = (
        1e6 * benchmark.stats.stats.median / units
    )


@pytest.mark.benchmark(group="search")
@pytest.mark.parametrize(("count", "steps"), CASES, ids=IDS)
def bench_search(benchmark: Any, model: nn.Module, images: Tensor, count: int, steps: int) -> None:
    config = hf.SearchConfig.mcn(RADIUS, steps=steps)
    benchmark.pedantic(hf.search, args=(model, images[:count], config), rounds=3, warmup_rounds=1)
    _record(benchmark, count, steps)


@pytest.mark.benchmark(group="search")
@pytest.mark.parametrize(("count", "steps"), CASES, ids=IDS)
def bench_torchattacks(
    benchmark: Any, model: nn.Module, images: Tensor, count: int, steps: int
) -> None:
    reason = missing("torchattacks")
    if reason is not None:
        pytest.skip(reason)
    loop = (model, images[:count], RADIUS, steps, 2.5 * RADIUS / steps)
    benchmark.pedantic(torchattacks_loop, args=loop, rounds=3, warmup_rounds=1)
    _record(benchmark, count, steps)


@pytest.mark.benchmark(group="search")
def bench_reference(benchmark: Any, model: nn.Module, images: Tensor) -> None:
    """Time the reference once and compare every image with the fast search."""
    x = images[:256]
    config = hf.SearchConfig.mcn(RADIUS, steps=20)
    expected = benchmark.pedantic(hf.reference.search, args=(model, x, config), rounds=1)
    _record(benchmark, len(x), config.steps)
    found = hf.search(model, x, config)
    difference = (found.value - expected.value).abs()
    benchmark.extra_info["other_winners"] = int((found.label != expected.label).sum())
    benchmark.extra_info["largest_value_difference"] = float(difference.max())
    benchmark.extra_info["median_value_difference"] = float(difference.median())
    assert float(difference.max()) <= REFERENCE_LIMIT
