"""PGD-Conf on the shipped model beside the published loop, which decides sample by sample.

Both pass all samples through the model together, so on one of real size the passes bound the ratio:
the published loop makes 2T + 1 of them forward and T + 1 backward, ours T + 1 and T. `model_passes`
times ours alone; what is left above it is the loop.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest
import torch
from published_pgd_conf import projected, published_pgd_conf
from torch import Tensor, nn

from hcnn_fast import data, models
from hcnn_fast.attacks import pgd_conf

RADIUS = 0.05
COUNT = 128
SETTINGS: dict[str, Any] = {
    "objective": "confidence",
    "norm": "linf",
    "step_size": RADIUS / 6,
    "momentum": 0.9,
    "backtracking": 1.5,
}
# The model of 128 images, and one so small that the loops themselves are timed; steps as in the
# paper's training, and more as in its evaluation, which has 200 and 1000.
every_case = pytest.mark.parametrize(
    ("name", "steps"), [("fashion-adversarial", 40), ("linear", 40), ("linear", 200)]
)


def load(name: str) -> nn.Module:
    if name != "linear":
        return models.load(name).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:  # [128, 1, 28, 28], [128]
    sample = data.load("fashion-mnist-sample", "test")
    return sample.scaled()[:COUNT], sample.labels[:COUNT]


def published(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """Best displacements and their errors."""
    best, error, _ = published_pgd_conf(
        model,
        x,
        y,
        torch.zeros_like(x),
        project=lambda d, image: projected(d, image, RADIUS, "linf", (0.0, 1.0)),
        steps=steps,
        **SETTINGS,
    )
    return best, error


@pytest.mark.benchmark(group="pgd-conf")
@every_case
def bench_pgd_conf(benchmark: Any, images: tuple[Tensor, Tensor], name: str, steps: int) -> None:
    model, (x, y) = load(name), images
    benchmark.pedantic(
        pgd_conf,
        args=(model, x, y),
        kwargs={"radius": RADIUS, "steps": steps, **SETTINGS},
        rounds=9,
        warmup_rounds=1,
    )


@pytest.mark.benchmark(group="pgd-conf")
@every_case
def bench_model_passes(
    benchmark: Any, images: tuple[Tensor, Tensor], name: str, steps: int
) -> None:
    """Time the passes of the attack and nothing else: no loop over them can take less."""
    model, (x, _) = load(name), images

    def passes() -> None:
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(model(z).sum(), z)
        with torch.no_grad():
            model(x)

    benchmark.pedantic(passes, rounds=9, warmup_rounds=1)


@pytest.mark.benchmark(group="pgd-conf")
@every_case
def bench_published(benchmark: Any, images: tuple[Tensor, Tensor], name: str, steps: int) -> None:
    """Time the published loop, ours right before each round, and compare every sample.

    The speed of a machine drifts: `times_faster` is the median over rounds of neighbours' ratios.
    """
    model, (x, y) = load(name), images
    beside: list[float] = []  # seconds

    def ours() -> None:
        begin = time.perf_counter()
        pgd_conf(model, x, y, radius=RADIUS, steps=steps, **SETTINGS)
        beside.append(time.perf_counter() - begin)

    ours()  # prepares the model
    beside.clear()
    _, error = benchmark.pedantic(published, args=(model, x, y, steps), setup=ours, rounds=7)
    ratios = [slow / fast for slow, fast in zip(benchmark.stats.stats.data, beside, strict=True)]
    benchmark.extra_info["times_faster"] = statistics.median(ratios)
    benchmark.extra_info["times_faster_rounds"] = ratios
    found = pgd_conf(model, x, y, radius=RADIUS, steps=steps, **SETTINGS)
    difference = (found.value + torch.tensor(error)).abs()
    benchmark.extra_info["largest_difference_in_confidence"] = float(difference.max())
    benchmark.extra_info["median_difference_in_confidence"] = float(difference.median())
